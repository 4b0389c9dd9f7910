"""A project seen through a symbolic link, so that every path Compose resolves says what it was.

Compose turns relative paths into absolute ones. Loaded from where it lies, a maker's project would
give paths of which nobody can tell ``../shared`` from ``/home/me/shared``. Loaded through a link
that is far down in an empty directory, a path below the link was relative and inside, one above it
was relative and led out, and every other one was written as it stands. ``HOME`` is a directory
that does not exist, so ``~`` shows too.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

#: Levels between the empty directory and the link; nobody climbs further by mistake.
_DEPTH = 12
_HOME = "/composeapps-home"


class Side(Enum):
    """Where a path leads, seen from the project."""

    INSIDE = "inside"
    #: Relative, and out of the tree.
    ABOVE = "above"
    #: Absolute, but into the maker's own copy of the tree.
    OWN = "own"
    HOME = "home"
    #: Absolute: there on the device, or not.
    DEVICE = "device"


@dataclass(frozen=True)
class Stage:
    """A maker's tree and where Compose sees it."""

    #: The tree as it really lies.
    root: Path
    #: The scratch directory, and the link in it.
    scratch: Path
    link: Path
    #: Project directory in the tree, as Compose sees it.
    project: Path

    def path(self, relative: str) -> Path:
        """Return where Compose sees a path of the tree."""
        return self.link if relative == "." else self.link / relative

    def judge(self, path: str) -> tuple[Side, str]:
        """Say where a path of Compose's model leads, and how to name it to a person.

        The name is relative to the tree where the path is inside.
        """
        path = os.path.normpath(path)
        for base, side in (
            (self.link, Side.INSIDE),
            (self.scratch, Side.ABOVE),
            (Path(_HOME), Side.HOME),
            (self.root, Side.OWN),
        ):
            if _below(path, str(base)):
                return side, self._name(side, path)
        return Side.DEVICE, path

    def plain(self, text: str) -> str:
        """Return a message of Compose's with the maker's own paths in it."""
        return text.replace(str(self.link), str(self.root))

    @property
    def environment(self) -> dict[str, str]:
        """What Compose's environment needs for ``judge`` to work."""
        return {"HOME": _HOME}

    def _name(self, side: Side, path: str) -> str:
        if side is Side.INSIDE:
            return os.path.relpath(path, self.link)
        if side is Side.HOME:
            return "~" + path.removeprefix(_HOME)
        return os.path.relpath(path, self.project) if side is Side.ABOVE else path


def _below(path: str, base: str) -> bool:
    return path == base or path.startswith(base.rstrip("/") + "/")


@contextmanager
def staged(root: Path, directory: str = ".") -> Iterator[Stage]:
    """Make a tree visible through a link, for as long as the context lasts.

    Args:
        root: the tree.
        directory: the project directory in it.
    """
    with tempfile.TemporaryDirectory(prefix="composeapps-") as name:
        scratch = Path(os.path.realpath(name))
        link = scratch.joinpath(*["d"] * _DEPTH, "project")
        link.parent.mkdir(parents=True)
        link.symlink_to(root)
        yield Stage(root, scratch, link, link if directory == "." else link / directory)


_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://|git@|github\.com/")


def is_remote(path: str) -> bool:
    """Say whether a path in ``include`` or ``extends`` is one that Compose would download."""
    return _REMOTE.match(path) is not None or path.endswith(".git")
