"""What the tests of the maker's repository share."""

from __future__ import annotations

from pathlib import Path


def snapshot_of(path: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(path)): one.read_bytes()
        for one in sorted(path.rglob("*"))
        if one.is_file()
    }
