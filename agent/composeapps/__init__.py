"""Run signed Docker Compose apps on a device that cannot be bricked."""

__version__ = "0.1.0"
