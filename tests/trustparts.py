"""What the tests of the device's look at a channel share."""

from __future__ import annotations

from pathlib import Path


def tree(path: Path) -> dict[str, tuple[int, bytes]]:
    """Return what a directory holds: names, modes and bytes."""
    return {
        str(one.relative_to(path)): (
            one.lstat().st_mode,
            one.read_bytes() if one.is_file() else b"",
        )
        for one in sorted(path.rglob("*"))
    }
