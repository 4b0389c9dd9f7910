"""A file tree in memory: inodes in columns, so that very many entries take little room.

It does what Linux and ext4 would do for root: who owns what is new in a set-group-ID directory,
what ``chown`` takes away, how names share an inode. It is a ``rootpath.View``.
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Callable, Iterator

from composeapps import xattrs
from composeapps.errors import SealError
from composeapps.rootpath import MISSING, PathError

ROOT = 0
#: What a time is where containerd leaves "now": directories that the tar only implies, whiteouts,
#: and the root. A sealed layer says 0 there, so that its bytes do not depend on the clock.
NOW = -1
#: Bytes of memory, as they were measured: one inode with its columns; one name (and its length);
#: one directory; one extended attribute, link target or remembered path (and its length).
COST_INODE, COST_NAME, COST_DIRECTORY, COST_VALUE = 72, 130, 250, 150


class FileTree:
    """Inodes by number, and directories that name them.

    Args:
        memory: bytes that the tree may take; SealError is raised when it would be more.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.modes = array("H")
        self.uids = array("I")
        self.gids = array("I")
        #: Nanoseconds since 1970, or NOW.
        self.mtimes = array("q")
        self.links = array("I")
        #: Bytes of a regular file; the device number (as st_rdev) of a device.
        self.sizes = array("Q")
        #: Where a regular file's data lies in the uncompressed stream.
        self.offsets = array("Q")
        #: The directory and the name an inode was made under; that name may be gone.
        self.parents = array("I")
        self.names: list[bytes] = []
        self.children: dict[int, dict[bytes, int]] = {}
        self.targets: dict[int, bytes] = {}
        self.xattrs: dict[int, dict[bytes, bytes]] = {}
        #: Sparse files: offset and length of each piece of data, flat.
        self.pieces: dict[int, array[int]] = {}
        self.new(stat.S_IFDIR | 0o755, ROOT)

    @property
    def root(self) -> int:
        """The root directory's number."""
        return ROOT

    def child(self, directory: int, name: bytes) -> int:
        """Return the inode of a name in a directory, or MISSING."""
        return self.children[directory].get(name, MISSING)

    def mode(self, node: int) -> int:
        """Return an inode's st_mode."""
        return self.modes[node]

    def target(self, node: int) -> bytes:
        """Return what a symbolic link holds."""
        return self.targets[node]

    def is_directory(self, node: int) -> bool:
        """Return True for a directory's number, False for others and for MISSING."""
        return node != MISSING and stat.S_ISDIR(self.modes[node])

    def new(self, mode: int, directory: int) -> int:
        """Make an inode that ``directory`` will name; its owner is root, its group perhaps not."""
        node = len(self.modes)
        inherits = node and self.modes[directory] & stat.S_ISGID
        self.spend(COST_INODE)
        self.modes.append(mode)
        self.uids.append(0)
        self.gids.append(self.gids[directory] if inherits else 0)
        self.mtimes.append(NOW)
        self.links.append(0)
        self.sizes.append(0)
        self.offsets.append(0)
        self.parents.append(directory)
        self.names.append(b"")
        if stat.S_ISDIR(mode):
            self.spend(COST_DIRECTORY)
            self.children[node] = {}
        return node

    def link(self, directory: int, name: bytes, node: int) -> None:
        """Give an inode a name in a directory that has none such."""
        self.spend(COST_NAME + len(name))
        self.children[directory][name] = node
        if not self.links[node]:
            self.names[node] = name
        self.links[node] += 1
        self.mtimes[directory] = NOW

    def remove(
        self, directory: int, name: bytes, lost: Callable[[bytes, int], None] | None = None
    ) -> None:
        """Remove a name and everything below it.

        Args:
            lost: is told path and inode of every name that goes.
        """
        self.mtimes[directory] = NOW
        pending = [
            (self.children[directory].pop(name), self.path(directory, name) if lost else b"")
        ]
        while pending:
            node, path = pending.pop()
            if lost is not None:
                lost(path, node)
            self.links[node] -= 1
            if self.links[node]:
                continue
            for values in (self.xattrs, self.targets, self.pieces):
                values.pop(node, None)
            for below, child in self.children.pop(node, {}).items():
                pending.append((child, path + b"/" + below if lost else b""))

    def change_owner(self, node: int, uid: int, gid: int) -> None:
        """As ``lchown``: -1 leaves a number as it is; capabilities do not survive it."""
        uid, gid = uid & 0xFFFFFFFF, gid & 0xFFFFFFFF
        if uid != 0xFFFFFFFF:
            self.uids[node] = uid
        if gid != 0xFFFFFFFF:
            self.gids[node] = gid
        if not stat.S_ISDIR(self.modes[node]) and node in self.xattrs:
            self.xattrs[node].pop(xattrs.CAPABILITY, None)

    def change_mode(self, node: int, mode: int) -> None:
        """As ``chmod``; a symbolic link's mode stays."""
        if not stat.S_ISLNK(self.modes[node]):
            self.modes[node] = stat.S_IFMT(self.modes[node]) | mode & 0o7777

    def set_xattr(self, node: int, name: bytes, value: bytes) -> None:
        """Set an extended attribute; raises PathError where it becomes too many bytes of them."""
        self.spend(COST_VALUE + len(name) + len(value))
        attributes = self.xattrs.setdefault(node, {})
        attributes[name] = value
        if sum(len(k) + len(v) + 16 for k, v in attributes.items()) > xattrs.TOTAL_LIMIT:
            raise PathError(f"its extended attributes take more than {xattrs.TOTAL_LIMIT} bytes")

    def path(self, directory: int, name: bytes = b"") -> bytes:
        """Return the path of a directory, or of a name in it, without a slash at its beginning."""
        parts = [name] if name else []
        while directory != ROOT:
            parts.append(self.names[directory])
            directory = self.parents[directory]
        return b"/".join(reversed(parts))

    def path_of(self, node: int) -> bytes:
        """Return the path of an inode's main name."""
        return self.path(self.parents[node], self.names[node])

    def is_main_name(self, directory: int, name: bytes, node: int) -> bool:
        """Return True for the one name that stands for an inode, False for its hard links."""
        return self.parents[node] == directory and self.names[node] == name

    def settle_names(self) -> None:
        """Give every inode a main name that is still there, once the tree is finished."""
        for directory, name, node in self.walk():
            if self.children.get(self.parents[node], {}).get(self.names[node]) != node:
                self.parents[node], self.names[node] = directory, name

    def walk(self) -> Iterator[tuple[int, bytes, int]]:
        """Yield directory, name and inode of every name, a directory's own before those in it."""
        pending = [ROOT]
        while pending:
            directory = pending.pop()
            for name, node in self.children[directory].items():
                yield directory, name, node
                if self.is_directory(node):
                    pending.append(node)

    def attributes(self, node: int) -> tuple[object, ...]:
        """Return what an entry can change of an inode, to be compared."""
        found = dict(self.xattrs.get(node, {}))
        return self.modes[node], self.uids[node], self.gids[node], self.mtimes[node], found

    def living(self) -> Iterator[int]:
        """Yield the inodes that still have a name, in the order in which they were made."""
        return (node for node in range(len(self.modes)) if self.links[node])

    def totals(self) -> tuple[int, int]:
        """Return the bytes of all files, and the number of names."""
        unpacked = sum(self.sizes[node] for node in self.living() if stat.S_ISREG(self.modes[node]))
        return unpacked, sum(len(names) for names in self.children.values())

    def spend(self, count: int) -> None:
        """Count bytes of memory; raises SealError where there are none left."""
        self.memory -= count
        if self.memory < 0:
            raise SealError(
                "it has more entries, names and attributes than can be sealed within the agent's "
                "bound on memory; split it into several layers"
            )
