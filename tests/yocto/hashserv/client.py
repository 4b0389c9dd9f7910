"""A fake, as its package."""
