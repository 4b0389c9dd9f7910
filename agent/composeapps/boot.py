"""This boot: its name, and the time since it began."""

from __future__ import annotations

import time
from pathlib import Path


def boot_id() -> str:
    """Return a name of this boot, another at each."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def boottime() -> float:
    """Return seconds since boot, time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
