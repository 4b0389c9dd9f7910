"""What is measured, version 1."""

from pathlib import Path

VERSION = 1


def read():
    """Return the readings of this moment."""
    return {"load": float(Path("/proc/loadavg").read_text().split()[0])}
