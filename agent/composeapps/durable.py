"""The one place that changes files that must survive a power cut.

The order is always the same: write under a temporary name, fsync the file, rename, fsync the
directory (RAUC's ``src/artifacts.c`` does it so). A final name therefore means finished bytes.
Every function here is safe to repeat after it was interrupted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Names that start so are unfinished work and may be deleted at any time by the lock's holder.
TEMPORARY = ".tmp-"
#: Names that end so are downloads; what they hold is hashed before it counts.
PART = ".part"


def fsync_dir(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_dir(path: Path, mode: int = 0o700) -> None:
    """Create a directory and the missing ones above it, durably."""
    if path.is_dir():
        return
    make_dir(path.parent, mode)
    with suppress(FileExistsError):
        path.mkdir(mode=mode)
    fsync_dir(path.parent)


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a small file: afterwards it holds the old bytes or all of the new ones."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}"[:255])
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        publish_path(temporary, path)
    except OSError:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def fsync_file(path: Path) -> None:
    """Make a finished file's bytes durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_path(temporary: Path, final: Path) -> None:
    """Give a finished, already fsynced file or directory its final name, durably."""
    os.replace(temporary, final)
    fsync_dir(final.parent)
    if temporary.parent != final.parent:
        fsync_dir(temporary.parent)


def fsync_tree(path: Path) -> None:
    """Make every file and directory below (and with) ``path`` durable; links are not followed."""
    for directory, _, files in os.walk(path, topdown=False):
        for name in files:
            file = Path(directory, name)
            if file.is_file() and not file.is_symlink():
                fsync_file(file)
        fsync_dir(Path(directory))


def replace_by_link(path: Path, target: Path) -> None:
    """Make ``path`` a symbolic link to ``target``, whatever it was before, durably.

    An empty directory (what an engine snapshot starts with) is taken away first; a directory with
    something in it is removed with all it holds.
    """
    if path.is_symlink() and os.readlink(path) == str(target):
        fsync_dir(path.parent)  # the run that made it may have been interrupted before this
        return
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    with suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    os.replace(temporary, path)
    fsync_dir(path.parent)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole directory, durably; what is not there is no error.

    A directory first loses its final name, so that no half of it is ever seen under it.
    """
    if path.is_dir() and not path.is_symlink():
        doomed = path
        if not path.name.startswith(TEMPORARY):
            doomed = path.with_name(f"{TEMPORARY}rm-{path.name}"[:255])
            if doomed.exists():
                shutil.rmtree(doomed)
            os.replace(path, doomed)
            fsync_dir(path.parent)
        shutil.rmtree(doomed)
    else:
        try:
            path.unlink()
        except FileNotFoundError:
            return
    fsync_dir(path.parent)


def remove_temporaries(directory: Path) -> None:
    """Remove what an interrupted run left half done; call it with the lock held."""
    if not directory.is_dir():
        return
    for path in sorted(directory.iterdir()):
        if path.name.startswith(TEMPORARY):
            remove(path)


@contextmanager
def new_directory(final: Path, mode: int = 0o700) -> Iterator[Path]:
    """Give a temporary directory to fill; on success it replaces ``final`` in one rename.

    The replaced directory is removed; after a power cut there is the old, the new or none of them.
    """
    temporary = final.with_name(f"{TEMPORARY}{final.name}"[:255])
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(mode=mode)
    yield temporary
    fsync_tree(temporary)
    if final.exists():
        remove(final)
    publish_path(temporary, final)
