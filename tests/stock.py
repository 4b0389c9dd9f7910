"""Programs of the device's tree, made runnable on this machine: the real Compose for tests."""

from __future__ import annotations

from pathlib import Path

from tree import tree


def program(name: str, suite: str = "") -> tuple[str, ...]:
    """Return the command line that runs ``/usr/bin/<name>`` of a tree with the tree's libraries."""
    root = tree(suite) if suite else tree()
    loader = next(root.glob("lib*/ld-linux-*.so.*"))
    libraries = ":".join(str(path) for path in sorted(root.glob("usr/lib/*-linux-gnu*")))
    return (str(loader), "--library-path", libraries, f"{root}/usr/bin/{name}")


def write(directory: Path, files: dict[str, str]) -> Path:
    """Write files below a directory, and return it."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory
