"""What is measured, version 2: memory too."""

import psutil

VERSION = 2


def read():
    """Return the readings of this moment."""
    return {"load": psutil.getloadavg()[0], "memory_free": psutil.virtual_memory().available}
