"""Paths inside a layer, resolved as containerd resolves them below a layer's root.

``resolve`` gives what ``RootPath`` of containerd/continuity's ``fs/path.go`` gives: symbolic links
are followed inside the root, nothing leaves it, and ``..`` after a link is taken by its letters
where continuity does so. ``lstat`` stands for the kernel's own walk. Both work on any tree of
numbered nodes: a layer being read, or a sealed layer below it.
"""

from __future__ import annotations

import stat
from typing import Protocol

#: What ``View.child`` and ``lstat`` say where there is nothing; node numbers are never negative.
MISSING = -1
#: Bytes; Linux's NAME_MAX.
NAME_LIMIT = 255
#: Bytes; Linux's PATH_MAX without its NUL, less what containerd puts before a path in a snapshot.
PATH_LIMIT = 4095 - 95
#: Links; continuity's own limit, and the kernel's.
LINK_LIMIT = 255
KERNEL_LINK_LIMIT = 40
#: Names looked up for one layer; some minutes at the most where all are in sealed layers.
EFFORT_LIMIT = 10_000_000


class PathError(Exception):
    """The kernel would answer a path with an error other than "no such file"."""


class View(Protocol):
    """A tree of nodes: what the resolver needs to know of it."""

    @property
    def root(self) -> int:
        """The root directory's node."""

    def child(self, directory: int, name: bytes) -> int:
        """Return the node of a name in a directory, MISSING where there is none."""

    def mode(self, node: int) -> int:
        """Return a node's st_mode."""

    def target(self, node: int) -> bytes:
        """Return what a symbolic link holds."""


def clean(path: bytes) -> bytes:
    """Shorten a path by its letters alone, as Go's ``filepath.Clean``."""
    rooted = path.startswith(b"/")
    kept: list[bytes] = []
    for part in path.split(b"/"):
        if part in (b"", b"."):
            continue
        if part != b"..":
            kept.append(part)
        elif kept and kept[-1] != b"..":
            kept.pop()
        elif not rooted:
            kept.append(part)
    shortened = b"/".join(kept)
    return b"/" + shortened if rooted else shortened or b"."


def join(first: bytes, second: bytes) -> bytes:
    """Put two paths together and clean the result, as Go's ``filepath.Join``."""
    if not first or not second:
        return clean(first or second) if first or second else b""
    return clean(first + b"/" + second)


def split(path: bytes) -> list[bytes]:
    """Return the names of a path, without empty ones."""
    return [part for part in path.split(b"/") if part]


def check_length(path: bytes) -> None:
    """Raise PathError where the kernel would say that a path or a name in it is too long."""
    if len(path) > PATH_LIMIT:
        raise PathError(f"its path is longer than {PATH_LIMIT} bytes")
    if len(path) > NAME_LIMIT and any(len(part) > NAME_LIMIT for part in path.split(b"/")):
        raise PathError(f"a name in its path is longer than {NAME_LIMIT} bytes")


class Effort:
    """Counts the names looked up for one layer, so that no layer can keep an agent busy for long.

    Real layers need few: only paths through links or to what is not there yet are counted.
    """

    def __init__(self, limit: int = EFFORT_LIMIT) -> None:
        self.left = limit

    def spend(self) -> None:
        """Count one name; raises PathError where there were too many."""
        self.left -= 1
        if self.left < 0:
            raise PathError("its layer leads through too many paths and symbolic links")


def lstat(view: View, path: bytes, effort: Effort) -> int:
    """Return the node at a path, links followed in all but its last part, or MISSING.

    A link that leaves the root leads to a file system this code cannot see, and where containerd
    looks only by accident: there is nothing then.

    Raises:
        PathError: a part is no directory, a name is too long, or links lead in circles.
    """
    return _lstat(view, path, effort)[0]


def _lstat(view: View, path: bytes, effort: Effort) -> tuple[int, bool]:
    """As ``lstat``, and say whether a link was followed on the way."""
    check_length(path)
    pending = split(path)[::-1]
    above = [view.root]
    links = 0
    while pending:
        part = pending.pop()
        if part == b".":
            continue
        if part == b"..":
            above.pop()
            if not above:
                return MISSING, True
            continue
        effort.spend()
        node = view.child(above[-1], part)
        if node == MISSING or not pending:
            return node, links > 0
        mode = view.mode(node)
        if stat.S_ISDIR(mode):
            above.append(node)
        elif stat.S_ISLNK(mode):
            links += 1
            if links > KERNEL_LINK_LIMIT:
                raise PathError("its path has too many symbolic links")
            target = view.target(node)
            if target.startswith(b"/"):
                return MISSING, True
            pending.extend(split(target)[::-1])
        else:
            raise PathError(f"{text(part)} in its path is not a directory")
    return above[-1], links > 0


class _Walk:
    """One resolution: a tree, the number of links met so far, and where it stands."""

    def __init__(self, view: View, effort: Effort) -> None:
        self.view = view
        self.effort = effort
        self.links = 0
        # The path looked at last, if no link was on it: a directory, or nothing.
        self.known: tuple[bytes, int] = (b"/", view.root)

    def step(self, path: bytes) -> tuple[bytes, bool]:
        """Return a clean absolute path, or what its last part links to, and whether it is one."""
        if self.links > LINK_LIMIT:
            raise PathError("its path has too many symbolic links")
        if path == b"/":
            return path, False
        node = self._node(path)
        mode = self.view.mode(node) if node != MISSING else 0
        if node == MISSING or not stat.S_ISLNK(mode):
            return path, False
        self.links += 1
        return self.view.target(node), True

    def _node(self, path: bytes) -> int:
        above, _, base = path.rpartition(b"/")
        where, directory = self.known
        followed = False
        if (above or b"/") != where:
            node, followed = _lstat(self.view, path, self.effort)
        elif len(path) > PATH_LIMIT or len(base) > NAME_LIMIT:
            check_length(path)
        if (above or b"/") == where:
            self.effort.spend()
            node = MISSING if directory == MISSING else self.view.child(directory, base)
        if not followed and (node == MISSING or stat.S_ISDIR(self.view.mode(node))):
            self.known = (path, node)
        return node

    def through(self, path: bytes) -> bytes:
        """Follow every part of a path once, from its beginning."""
        parts = split(path)
        current = b"/"
        if not path.startswith(b"/"):
            current, _ = self.step(join(b"/", parts[0] if parts else b""))
            parts = parts[1:]
        for part in parts:
            found, is_link = self.step(_below(current, part))
            relative = is_link and not found.startswith(b"/")
            current = join(current, found) if relative else found
        return current


def _below(current: bytes, part: bytes) -> bytes:
    """Join a name to a path and root the result; quickly where there is nothing to clean."""
    if part in (b".", b"..") or b"/." in current or b"//" in current or current[:1] != b"/":
        return join(b"/", join(current, part))
    return b"%s/%s" % (current.rstrip(b"/"), part)


def resolve(view: View, path: bytes, effort: Effort) -> bytes:
    """Return the path that a name means inside a root: absolute, clean, no part of it a link.

    Raises:
        PathError: as ``lstat``; continuity fails then too.
    """
    if not path:
        return b"/"
    walk = _Walk(view, effort)
    while True:
        before = walk.links
        path = walk.through(path)
        if walk.links == before:
            cleaned = join(b"/", path)
            if cleaned == path:
                return cleaned
            path = cleaned


def text(name: bytes) -> str:
    """Return a name as it may stand in a message: quoted, one line, printable, short."""
    shown = name[:200].decode("utf-8", "backslashreplace")
    shown = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in shown)
    return f"'{shown}...'" if len(name) > 200 else f"'{shown}'"
