"""What a layer's tar makes of an empty directory, by the rules of containerd's applier.

The rules are those of ``applyNaive`` (``pkg/archive/tar.go``, ``tar_unix.go``, ``time.go``) with
``OverlayConvertWhiteout`` (``tar_opts_linux.go``) as the overlayfs snapshotter uses it: the first
layer of a chain is unpacked with whiteouts that delete, every other one with overlay whiteouts
and with the layers below to take implied directories from. Read in containerd 1.7.24 and 2.4.
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from composeapps import rootpath, tarheader, xattrs
from composeapps.errors import SealError
from composeapps.filetree import COST_VALUE, ROOT, FileTree
from composeapps.rootpath import MISSING, Effort, PathError, text
from composeapps.tarheader import Member

#: Nanoseconds; containerd sets every later time (2262-04-11) and every earlier one than 0 to 0.
TIME_LIMIT = (1 << 63) - 1
WHITEOUT = b".wh."
OPAQUE_MARKER = b".wh..wh..opq"
OPAQUE = b"trusted.overlay.opaque"
#: Device numbers that survive every containerd, the kernel and mkfs.erofs alike. containerd before
#: 2.4 cuts larger ones, and mkfs.erofs 1.8 mangles the upper half of the kernel's minor numbers.
MAJOR_LIMIT = 0xFFF
MINOR_LIMIT = 0x7FFFF
SPECIAL = {
    tarheader.CHARACTER: stat.S_IFCHR,
    tarheader.BLOCK_DEVICE: stat.S_IFBLK,
    tarheader.FIFO: stat.S_IFIFO,
}


@dataclass(frozen=True)
class Attributes:
    """What an implied directory takes after the one at its path in a layer below."""

    #: st_mode; where it is no directory, nothing is taken.
    mode: int
    uid: int
    gid: int
    #: Nanoseconds since 1970.
    mtime: int
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Below(Protocol):
    """One layer below: where implied directories are looked up."""

    def lookup(self, path: bytes, effort: Effort) -> Attributes | None:
        """Return what is at a path, resolved inside that layer alone; None where nothing is.

        Raises:
            PathError: the path leads through something that is no directory.
        """


class Applier:
    """Takes a layer's entries in order and makes its tree.

    Args:
        below: the layers below, topmost first; none for the first layer of a chain.
        memory: bytes that the tree may take; a layer that needs more is refused.
    """

    def __init__(self, below: Sequence[Below], memory: int) -> None:
        self.tree = FileTree(memory)
        #: True where the tree depends on which layers are below.
        self.chain_dependent = False
        #: True where a later entry changed a file or took its first name away: what ``apply`` said
        #: of a file when it made it was not the last word.
        self.rewrites = False
        self._below = below
        self._is_first = not below
        #: First layer only, for its opaque markers: directories that no entry has named yet, and
        #: paths that an entry named whose inode is gone (``unpackedPaths``).
        self._implied: set[int] = set()
        self._forgotten: set[bytes] = set()
        self._directories: list[tuple[bytes, int]] = []
        self._last_parent: tuple[bytes, int] | None = None
        self._effort = Effort()

    def apply(self, member: Member) -> int:
        """Do with one entry what containerd's applier does with it.

        Returns:
            the inode of the regular file that it made, MISSING where it was something else.

        Raises:
            SealError: containerd refuses it, or it cannot be kept exactly; names the entry.
        """
        try:
            node = self._apply(member)
            return node if member.type == tarheader.REGULAR else MISSING
        except PathError as error:
            raise SealError(f"entry {text(member.name)}: {error}") from error

    def finish(self) -> FileTree:
        """Set the directories' times, as containerd does after the last entry; return the tree.

        Raises:
            SealError: a directory entry's name leads nowhere any more; containerd fails then too.
        """
        for name, mtime in self._directories:
            try:
                node = rootpath.lstat(
                    self.tree, rootpath.resolve(self.tree, name, self._effort), self._effort
                )
            except PathError as error:
                raise SealError(f"entry {text(name)}: {error}") from error
            if node == MISSING:
                raise SealError(
                    f"entry {text(name)}: this directory is gone at the layer's end, where "
                    "containerd has to set its time"
                )
            self.rewrites |= not self.tree.is_directory(node) and self.tree.mtimes[node] != mtime
            self.tree.mtimes[node] = mtime
        self.tree.settle_names()
        self._directories.clear()
        self._forgotten.clear()
        return self.tree

    def _apply(self, member: Member) -> int:
        name = rootpath.clean(member.name)
        above, slash, base = name.rpartition(b"/")
        if base in (b"", b".", b".."):
            return MISSING
        rootpath.check_length(name)
        directory = self._parent(above + slash)
        if base.startswith(WHITEOUT):
            self._whiteout(member, directory, base)
            return MISSING
        node = self.tree.child(directory, base)
        keeps = member.type == tarheader.DIRECTORY and self.tree.is_directory(node)
        if node != MISSING and not keeps:
            self._remove(directory, base)
        if member.type == tarheader.PAX_GLOBAL:
            # Not what anyone meant, but what containerd does: the name before it is gone.
            self._forget(self.tree.path(directory, base), MISSING)
            return MISSING
        if not keeps:
            node = self._create(member, directory, base)
        self._implied.discard(node)
        if member.type == tarheader.HARD_LINK:
            before = self.tree.attributes(node)
            self._set_attributes(node, member)
            self.rewrites |= before != self.tree.attributes(node)
        else:
            self._set_attributes(node, member)
        if member.type == tarheader.DIRECTORY:
            self.tree.spend(COST_VALUE + len(name))
            self._directories.append((name, _bound(member.mtime)))
        return node

    def _parent(self, path: bytes) -> int:
        """Return the directory that an entry goes into, made where it is only implied."""
        if self._last_parent is not None and self._last_parent[0] == path:
            return self._last_parent[1]
        node = ROOT
        for part in rootpath.split(path):
            node = self.tree.child(node, part)
            if not self.tree.is_directory(node):
                node = self._make_parents(path)
                break
        self._last_parent = (path, node)
        return node

    def _make_parents(self, path: bytes) -> int:
        """Resolve a path and make the directories that are not there (``mkparent``)."""
        resolved = rootpath.resolve(self.tree, path, self._effort)
        rootpath.check_length(resolved)
        node, parts = ROOT, rootpath.split(resolved)
        for index, part in enumerate(parts):
            found = self.tree.child(node, part)
            if found == MISSING:
                found = self._imply(node, part, b"/" + b"/".join(parts[: index + 1]))
            elif not self.tree.is_directory(found):
                raise PathError(f"{text(part)} in its path is not a directory")
            node = found
        return node

    def _imply(self, directory: int, name: bytes, path: bytes) -> int:
        """Make a directory that the tar only implies, after the one below where there is one."""
        self.chain_dependent = True
        tree = self.tree
        node = tree.new(stat.S_IFDIR | 0o755, directory)
        tree.link(directory, name, node)
        if self._is_first:
            self._implied.add(node)
        for layer in self._below:
            found = layer.lookup(path, self._effort)
            if found is None:
                continue
            if stat.S_ISDIR(found.mode):
                tree.change_owner(node, found.uid, found.gid)
                tree.change_mode(node, found.mode)
                tree.mtimes[node] = found.mtime
                for key, value in found.xattrs.items():
                    if not key.startswith(b"trusted."):
                        tree.set_xattr(node, key, value)
            break
        return node

    def _whiteout(self, member: Member, directory: int, base: bytes) -> None:
        self.chain_dependent = True
        if base == OPAQUE_MARKER:
            if self._is_first:
                self._clear(directory)
            else:
                self.tree.set_xattr(directory, OPAQUE, b"y")
            return
        hidden = base.removeprefix(WHITEOUT)
        if hidden in (b"", b".", b".."):
            raise PathError("this whiteout names nothing that can be deleted")
        exists = self.tree.child(directory, hidden) != MISSING
        if self._is_first:
            if exists:
                self._remove(directory, hidden)
            return
        if exists:
            raise PathError("this layer deletes what it has itself put there before")
        node = self.tree.new(stat.S_IFCHR, directory)
        self.tree.link(directory, hidden, node)
        self.tree.change_owner(node, member.uid, member.gid)

    def _clear(self, directory: int) -> None:
        """Remove what no entry of this layer named: an opaque marker in a chain's first layer."""
        pending = [(directory, self.tree.path(directory))]
        while pending:
            directory, path = pending.pop()
            for name, node in list(self.tree.children[directory].items()):
                below = path + b"/" + name if path else name
                if node in self._implied and below not in self._forgotten:
                    self._remove(directory, name)
                elif self.tree.is_directory(node):
                    pending.append((node, below))

    def _remove(self, directory: int, name: bytes) -> None:
        self._last_parent = None
        self.rewrites = True
        self.tree.remove(directory, name, self._forget if self._is_first else None)

    def _forget(self, path: bytes, node: int) -> None:
        """Remember that an entry named a path, now that its inode is gone."""
        if self._is_first and node not in self._implied and path not in self._forgotten:
            self.tree.spend(COST_VALUE + len(path))
            self._forgotten.add(path)

    def _create(self, member: Member, directory: int, name: bytes) -> int:
        if member.type == tarheader.HARD_LINK:
            node = self._link_target(member.link)
        elif member.type == tarheader.REGULAR:
            node = self._create_file(member, directory)
        elif member.type == tarheader.DIRECTORY:
            node = self.tree.new(stat.S_IFDIR, directory)
        elif member.type == tarheader.SYMLINK:
            node = self._create_symlink(member, directory)
        elif member.type in SPECIAL:
            node = self._create_special(member, directory)
        else:
            raise PathError(f"containerd takes no entries of type {chr(member.type)!r}")
        self.tree.link(directory, name, node)
        return node

    def _create_file(self, member: Member, directory: int) -> int:
        tree = self.tree
        node = tree.new(stat.S_IFREG, directory)
        tree.sizes[node] = member.size
        tree.offsets[node] = member.offset
        if member.pieces is not None:
            if sum(length for _, length in member.pieces) != member.stored:
                raise PathError("its sparse map and its data do not fit together")
            tree.spend(COST_VALUE + 16 * len(member.pieces))
            tree.pieces[node] = array("Q", [number for piece in member.pieces for number in piece])
        return node

    def _create_symlink(self, member: Member, directory: int) -> int:
        if not 0 < len(member.link) <= 4095:
            raise PathError("its link target is empty or longer than 4095 bytes")
        node = self.tree.new(stat.S_IFLNK | 0o777, directory)
        self.tree.spend(COST_VALUE + len(member.link))
        self.tree.targets[node] = member.link
        return node

    def _create_special(self, member: Member, directory: int) -> int:
        if not (0 <= member.major <= MAJOR_LIMIT and 0 <= member.minor <= MINOR_LIMIT):
            raise PathError(f"its device number {member.major}:{member.minor} is out of range")
        node = self.tree.new(SPECIAL[member.type], directory)
        if member.type != tarheader.FIFO:
            self.tree.sizes[node] = member.major << 20 | member.minor
        return node

    def _link_target(self, link: bytes) -> int:
        """Return the inode that a hard-link entry means (``hardlinkRootPath``)."""
        above, slash, base = link.rpartition(b"/")
        path = rootpath.join(rootpath.resolve(self.tree, above + slash, self._effort), base)
        node = rootpath.lstat(self.tree, path, self._effort)
        if node == MISSING:
            raise PathError(f"its hard-link target {text(link)} does not exist")
        if self.tree.is_directory(node):
            raise PathError(f"its hard-link target {text(link)} is a directory")
        return node

    def _set_attributes(self, node: int, member: Member) -> None:
        """Owner, extended attributes, mode, time: in containerd's order, on the inode itself."""
        tree = self.tree
        tree.change_owner(node, member.uid, member.gid)
        for key, value in member.records.items():
            if key.startswith(xattrs.PAX_PREFIX):
                name = key.removeprefix(xattrs.PAX_PREFIX)
                if xattrs.is_kept(name, value, tree.modes[node]):
                    tree.set_xattr(node, name, value)
        tree.change_mode(node, member.mode)
        tree.mtimes[node] = _bound(member.mtime)


def _bound(mtime: int) -> int:
    return mtime if 0 <= mtime <= TIME_LIMIT else 0
