"""Demo apps: Compose projects, the images for them, and the script that shows them."""
