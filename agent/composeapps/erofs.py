"""Reads the metadata of a sealed layer: an EROFS image that mkfs.erofs made for ``seal``.

On-disk format: the kernel's ``fs/erofs/erofs_fs.h`` and ``Documentation/filesystems/erofs.rst``.
Directories and symbolic links are never compressed there; the contents of compressed files are
the kernel's matter. A sealed layer is ours, so it is not hostile, but it can be damaged: whatever
does not fit ends in IntegrityError, never in a loop.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from composeapps import rootpath
from composeapps.errors import IntegrityError
from composeapps.layertree import Attributes
from composeapps.rootpath import MISSING

MAGIC = 0xE0F5E1E2
SUPERBLOCK = struct.Struct("<4x I I B B H Q Q I I I I 16x 16x I H")
SUPERBLOCK_OFFSET = 1024
#: 48-bit addresses and the metadata box (feature_incompat), which moves inodes elsewhere.
UNKNOWN_FEATURES = ~0x7F
COMPACT = struct.Struct("<HHHHI I I I HH 4x")
EXTENDED = struct.Struct("<HHH 2x Q I I II QII 16x")
DIRENT = struct.Struct("<QHBx")
XATTR_HEADER = struct.Struct("<4x B 7x")
XATTR_ENTRY = struct.Struct("<BBH")
FLAT_PLAIN, FLAT_INLINE = 0, 2
PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
NANO = 1_000_000_000
#: Bytes; a directory of more is damage: that would be millions of names.
DIRECTORY_LIMIT = 1024**3


@dataclass(frozen=True)
class Inode:
    """One inode."""

    mode: int
    uid: int
    gid: int
    #: Nanoseconds since 1970.
    mtime: int
    links: int
    size: int
    #: As ``st_rdev``; 0 where it is no device.
    device: int
    layout: int
    #: Block of the data, and where the inode's extended attributes and its inline data begin.
    block: int
    xattr_offset: int
    xattr_size: int


class Image:
    """An EROFS image, opened for reading; a context manager, and a ``rootpath.View``.

    Raises:
        IntegrityError: it is not an EROFS image as ``seal`` makes it. (Every method does.)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        try:
            self._read_superblock()
        except BaseException:
            self._file.close()
            raise
        self.inode = lru_cache(maxsize=4096)(self._inode)

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_superblock(self) -> None:
        fields = SUPERBLOCK.unpack(self._read(SUPERBLOCK_OFFSET, SUPERBLOCK.size))
        if self._read(SUPERBLOCK_OFFSET, 4) != MAGIC.to_bytes(4, "little"):
            raise self._damaged("it is not an EROFS image")
        _, features_ok, block_bits, _, root, inodes, seconds, nanoseconds = fields[:8]
        del features_ok
        _, meta, xattr, incompatible, _ = fields[8:13]
        if not 9 <= block_bits <= 16 or incompatible & UNKNOWN_FEATURES:
            raise self._damaged("it has features that this agent does not know")
        self.block_size: int = 1 << block_bits
        #: Node number of the root directory, and how many inodes there are.
        self.root = int(root)
        self.inodes = int(inodes)
        self._time = seconds * NANO + nanoseconds
        self._meta = meta * self.block_size
        self._xattr = xattr * self.block_size

    def _damaged(self, reason: str) -> IntegrityError:
        return IntegrityError(f"sealed layer {self.path} is damaged: {reason}")

    def _read(self, offset: int, count: int) -> bytes:
        try:
            data = os.pread(self._file.fileno(), count, offset)
        except (OSError, OverflowError) as error:
            raise self._damaged(f"byte {offset} cannot be read ({error})") from error
        if len(data) < count:
            raise self._damaged("it ends too early")
        return data

    def _inode(self, node: int) -> Inode:
        offset = self._meta + node * 32
        start = self._read(offset, COMPACT.size)
        layout = start[0] >> 1 & 7
        if start[0] & 1:
            raw = start + self._read(offset + COMPACT.size, EXTENDED.size - COMPACT.size)
            fields = EXTENDED.unpack(raw)
            _, icount, mode, size, union, _, uid, gid, seconds, nanoseconds, links = fields
            mtime, length = seconds * NANO + nanoseconds, EXTENDED.size
        else:
            fields = COMPACT.unpack(start)
            _, icount, mode, links, size, later, union, _, uid, gid = fields
            mtime, length = self._time + later * NANO, COMPACT.size
        if layout > 4 or stat.S_IFMT(mode) == 0:
            raise self._damaged(f"inode {node} is not valid")
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        return Inode(
            mode=mode,
            uid=uid,
            gid=gid,
            mtime=mtime,
            links=links,
            size=size,
            device=_device(union) if is_device else 0,
            layout=layout,
            block=union,
            xattr_offset=offset + length,
            xattr_size=12 + 4 * (icount - 1) if icount else 0,
        )

    def data(self, node: int, offset: int, count: int) -> bytes:
        """Return bytes of a directory, a symbolic link or an uncompressed file."""
        inode = self.inode(node)
        count = min(count, inode.size - offset)
        if inode.layout == FLAT_PLAIN:
            return self._read(inode.block * self.block_size + offset, count)
        if inode.layout != FLAT_INLINE:
            raise self._damaged(f"inode {node} is compressed")
        inline_from = inode.size // self.block_size * self.block_size
        parts = []
        if offset < inline_from:
            take = min(count, inline_from - offset)
            parts.append(self._read(inode.block * self.block_size + offset, take))
            offset, count = offset + take, count - take
        if count:
            tail = inode.xattr_offset + inode.xattr_size
            parts.append(self._read(tail + offset - inline_from, count))
        return b"".join(parts)

    def mode(self, node: int) -> int:
        """Return a node's st_mode."""
        return self.inode(node).mode

    def target(self, node: int) -> bytes:
        """Return what a symbolic link holds."""
        inode = self.inode(node)
        if not 0 < inode.size <= 4096:
            raise self._damaged(f"symbolic link {node} has an impossible length")
        return self.data(node, 0, inode.size)

    def child(self, directory: int, name: bytes) -> int:
        """Return the node of a name in a directory, MISSING where there is none."""
        low, high = 0, self._block_count(directory) - 1
        # Names are sorted over all blocks: find the last block that begins no later.
        while low < high:
            middle = (low + high + 1) // 2
            first = next(self._dirents(directory, middle), None)
            if first is None:
                raise self._damaged(f"directory {directory} has an empty block")
            if first[0] <= name:
                low = middle
            else:
                high = middle - 1
        if high < 0:
            return MISSING
        return dict(self._dirents(directory, low)).get(name, MISSING)

    def entries(self, directory: int) -> Iterator[tuple[bytes, int]]:
        """Yield name and node of everything in a directory, without ``.`` and ``..``."""
        for block in range(self._block_count(directory)):
            for name, node in self._dirents(directory, block):
                if name not in (b".", b".."):
                    yield name, node

    def _block_count(self, directory: int) -> int:
        inode = self.inode(directory)
        if not stat.S_ISDIR(inode.mode) or inode.size > DIRECTORY_LIMIT:
            raise self._damaged(f"inode {directory} is no directory")
        return -(-inode.size // self.block_size)

    def _dirents(self, directory: int, block: int) -> Iterator[tuple[bytes, int]]:
        data = self.data(directory, block * self.block_size, self.block_size)
        if len(data) < DIRENT.size:
            raise self._damaged(f"directory {directory} is cut off")
        names_from = DIRENT.unpack_from(data)[1]
        if names_from % DIRENT.size or not 0 < names_from <= len(data):
            raise self._damaged(f"directory {directory} is not valid")
        for at in range(0, names_from, DIRENT.size):
            node, start, _ = DIRENT.unpack_from(data, at)
            is_last = at + DIRENT.size >= names_from
            end = len(data) if is_last else DIRENT.unpack_from(data, at + DIRENT.size)[1]
            name = data[start:end]
            if is_last:
                name = name.partition(b"\0")[0]
            if not name or start < names_from or b"/" in name:
                raise self._damaged(f"directory {directory} is not valid")
            yield name, node

    def xattrs(self, node: int) -> dict[bytes, bytes]:
        """Return a node's extended attributes."""
        inode = self.inode(node)
        if inode.xattr_size == 0:
            return {}
        body = self._read(inode.xattr_offset, inode.xattr_size)
        (shared,) = XATTR_HEADER.unpack_from(body)
        at = XATTR_HEADER.size + 4 * shared
        if at > len(body):
            raise self._damaged(f"inode {node} has attributes that are not valid")
        found: dict[bytes, bytes] = {}
        for index in range(shared):
            start = XATTR_HEADER.size + 4 * index
            place = self._xattr + 4 * int.from_bytes(body[start : start + 4], "little")
            name_size, _, value_size = XATTR_ENTRY.unpack(self._read(place, XATTR_ENTRY.size))
            raw = self._read(place, XATTR_ENTRY.size + name_size + value_size)
            key, value, _ = self._xattr_entry(raw, 0)
            found[key] = value
        while at + XATTR_ENTRY.size <= len(body) and any(body[at : at + XATTR_ENTRY.size]):
            key, value, at = self._xattr_entry(body, at)
            found[key] = value
        return found

    def _xattr_entry(self, raw: bytes, at: int) -> tuple[bytes, bytes, int]:
        name_size, prefix, value_size = XATTR_ENTRY.unpack_from(raw, at)
        start = at + XATTR_ENTRY.size
        end = start + name_size + value_size
        if prefix not in PREFIXES or end > len(raw):
            raise self._damaged("an extended attribute is not valid")
        name = PREFIXES[prefix] + raw[start : start + name_size]
        return name, raw[start + name_size : end], end + -end % 4

    def lookup(self, path: bytes, effort: rootpath.Effort) -> Attributes | None:
        """Return what is at a path, resolved inside this layer alone; None where nothing is.

        Raises:
            rootpath.PathError: the path leads through something that is no directory.
        """
        node = rootpath.lstat(self, rootpath.resolve(self, path, effort), effort)
        if node == MISSING:
            return None
        inode = self.inode(node)
        return Attributes(inode.mode, inode.uid, inode.gid, inode.mtime, self.xattrs(node))


def _device(encoded: int) -> int:
    """Return an ``st_rdev`` of the kernel's ``new_encode_dev``."""
    major = encoded >> 8 & 0xFFF
    minor = encoded & 0xFF | encoded >> 12 & 0xFFF00
    return os.makedev(major, minor)
