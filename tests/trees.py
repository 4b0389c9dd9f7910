"""Trees as plain values, so that a test can say what it expects, and what reads them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from composeapps import rootpath, tarstream
from composeapps.blobstream import ByteStream
from composeapps.erofs import Image
from composeapps.errors import IntegrityError
from composeapps.filetree import FileTree
from composeapps.layertree import Applier, Attributes, Below
from composeapps.rootpath import Effort

MEMORY = 64 * 1024 * 1024


def stream(data: bytes) -> ByteStream:
    """Return a stream of some bytes, in pieces that fit no block."""
    return ByteStream(iter([data[at : at + 70_000] for at in range(0, len(data), 70_000)]))


def applied(layer: bytes, below: Sequence[Below] = (), memory: int = MEMORY) -> Applier:
    """Return the applier after a whole layer."""
    applier = Applier(below, memory)
    for member in tarstream.members(stream(layer)):
        applier.apply(member)
    applier.finish()
    return applier


def opener(path: Path) -> Callable[[], BinaryIO]:
    """Return what opens a file at its beginning, each time."""
    return lambda: path.open("rb")


@dataclass
class Layer:
    """A layer below that was never sealed: a tree in memory."""

    tree: FileTree

    def lookup(self, path: bytes, effort: Effort) -> Attributes | None:
        """Return what is at a path inside this layer, as a sealed one would."""
        tree = self.tree
        node = rootpath.lstat(tree, rootpath.resolve(tree, path, effort), effort)
        if node == rootpath.MISSING:
            return None
        return Attributes(
            tree.modes[node],
            tree.uids[node],
            tree.gids[node],
            max(tree.mtimes[node], 0),
            tree.xattrs.get(node, {}),
        )


def of_tree(tree: FileTree) -> dict[str, dict[str, Any]]:
    """Return a tree by path; "same as" names the first path of a hard link."""
    found: dict[str, dict[str, Any]] = {}
    first: dict[int, str] = {}
    pending = [(tree.root, "")]
    while pending:
        node, path = pending.pop()
        mode = tree.modes[node]
        value: dict[str, Any] = {
            "mode": mode,
            "owner": (tree.uids[node], tree.gids[node]),
            "mtime": max(tree.mtimes[node], 0),
            "xattrs": tree.xattrs.get(node) or {},
        }
        if stat.S_ISREG(mode):
            value["size"] = tree.sizes[node]
        elif stat.S_ISLNK(mode):
            value["target"] = tree.targets[node]
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            value["device"] = (tree.sizes[node] >> 20, tree.sizes[node] & 0xFFFFF)
        found[path] = value
        if stat.S_ISDIR(mode):
            for name, child in tree.children[node].items():
                pending.append((child, f"{path}/{_text(name)}".lstrip("/")))
        else:
            first[node] = min(path, first.get(node, path))
            value["links"] = tree.links[node]
            value["node"] = node
    return _grouped(found, first)


def of_image(image: Image, limit: int = 100_000) -> dict[str, dict[str, Any]]:
    """Return a sealed layer in the same words; IntegrityError where it has more than ``limit``."""
    found: dict[str, dict[str, Any]] = {}
    first: dict[int, str] = {}
    pending = [(image.root, "")]
    while pending:
        node, path = pending.pop()
        if len(found) > limit:
            raise IntegrityError(f"{image.path} has directories inside themselves")
        inode = image.inode(node)
        value: dict[str, Any] = {
            "mode": inode.mode,
            "owner": (inode.uid, inode.gid),
            "mtime": inode.mtime,
            "xattrs": image.xattrs(node),
        }
        if stat.S_ISREG(inode.mode):
            value["size"] = inode.size
        elif stat.S_ISLNK(inode.mode):
            value["target"] = image.target(node)
        elif stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
            value["device"] = (os.major(inode.device), os.minor(inode.device))
        found[path] = value
        if stat.S_ISDIR(inode.mode):
            for name, child in image.entries(node):
                pending.append((child, f"{path}/{_text(name)}".lstrip("/")))
        else:
            first[node] = min(path, first.get(node, path))
            value["links"] = inode.links
            value["node"] = node
    return _grouped(found, first)


def _grouped(found: dict[str, dict[str, Any]], first: dict[int, str]) -> dict[str, dict[str, Any]]:
    for value in found.values():
        if "node" in value:
            value["same as"] = first[value.pop("node")]
    return found


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
