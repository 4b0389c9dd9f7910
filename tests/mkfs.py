"""The tree's ``mkfs.erofs``, made runnable on this machine, whose own may be too old."""

from __future__ import annotations

from pathlib import Path

from tree import tree


def directory_with_mkfs(place: Path) -> Path:
    """Return a directory to put first in PATH: its ``mkfs.erofs`` is the device tree's.

    Its libraries are the tree's too, so that it runs wherever the tree's architecture does.
    """
    root = tree()
    loader = next(root.glob("lib*/ld-linux-*.so.*"))
    libraries = ":".join(str(path) for path in sorted(root.glob("usr/lib/*-linux-gnu*")))
    script = place / "mkfs.erofs"
    script.write_text(
        f'#!/bin/sh\nexec {loader} --library-path {libraries} {root}/usr/bin/mkfs.erofs "$@"\n'
    )
    script.chmod(0o755)
    return place
