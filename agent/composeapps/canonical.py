"""Writes a tree as a tar stream in which everything is said, for ``mkfs.erofs --tar=f``.

Directories first, then files in the order in which their data comes out of the layer, then
everything else, hard links last: so ``mkfs.erofs`` (seen with 1.8.6 to 1.9.4) never has to guess an
owner, a mode or a time. ustar headers, with a PAX header before those that need one; overlay
whiteouts are the character devices 0:0 that they are.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping

from composeapps import tarheader, xattrs
from composeapps.blobstream import ByteStream
from composeapps.errors import IntegrityError
from composeapps.filetree import ROOT, FileTree

NANO = tarheader.NANO
ZEROS = bytes(256 * 1024)
#: Largest numbers of ustar's octal fields of 8 and of 12 bytes.
SHORT_LIMIT = 0o7777777
LONG_LIMIT = 0o77777777777
TYPES = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
Write = Callable[[bytes], object]


def write_tree(tree: FileTree, stream: ByteStream, write: Write) -> None:
    """Write a finished tree to ``write``, the files' data taken from the layer read once more.

    Raises:
        IntegrityError: the layer is shorter now than when the tree was made of it.
    """
    write(_header(tree, ROOT, b"."))
    for directory, name, node in _walk(tree):
        if tree.is_directory(node):
            write(_header(tree, node, tree.path(directory, name)))
        else:
            tree.settle_name(directory, name, node)
    for node in tree.living():
        if stat.S_ISREG(tree.modes[node]):
            write(_header(tree, node, tree.path_of(node)))
            _write_data(tree, node, stream, write)
    for node in tree.living():
        if not stat.S_ISREG(tree.modes[node]) and not stat.S_ISDIR(tree.modes[node]):
            write(_header(tree, node, tree.path_of(node)))
    for directory, name, node in _walk(tree):
        if tree.links[node] > 1 and not tree.is_main_name(directory, name, node):
            write(_header(tree, node, tree.path(directory, name), link_to=tree.path_of(node)))
    write(bytes(2 * tarheader.BLOCK))


def _walk(tree: FileTree) -> Iterator[tuple[int, bytes, int]]:
    """Yield directory, name and inode of every name, a directory's own before those in it."""
    pending = [ROOT]
    while pending:
        directory = pending.pop()
        for name, node in tree.children[directory].items():
            yield directory, name, node
            if tree.is_directory(node):
                pending.append(node)


def _write_data(tree: FileTree, node: int, stream: ByteStream, write: Write) -> None:
    size = tree.sizes[node]
    if not size:
        return
    stream.skip(tree.offsets[node] - stream.position)
    at = 0
    flat = tree.pieces.get(node)
    pieces = [(0, size)] if flat is None else zip(flat[::2], flat[1::2], strict=True)
    for offset, length in pieces:
        _write_zeros(offset - at, write)
        if stream.copy(length, write) < length:
            raise IntegrityError("the layer changed while it was sealed")
        at = offset + length
    _write_zeros(size - at, write)
    _write_zeros(-size % tarheader.BLOCK, write)


def _write_zeros(count: int, write: Write) -> None:
    while count > 0:
        write(ZEROS if count >= len(ZEROS) else ZEROS[:count])
        count -= len(ZEROS)


def _header(tree: FileTree, node: int, path: bytes, link_to: bytes = b"") -> bytes:
    mode = tree.modes[node]
    is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return _block(
        path,
        b"1" if link_to else TYPES[stat.S_IFMT(mode)],
        mode=stat.S_IMODE(mode),
        uid=tree.uids[node],
        gid=tree.gids[node],
        size=tree.sizes[node] if stat.S_ISREG(mode) and not link_to else 0,
        mtime=max(tree.mtimes[node], 0),  # NOW is negative
        link=link_to or tree.targets.get(node, b""),
        device=tree.sizes[node] if is_device else 0,
        attributes=tree.xattrs.get(node),
    )


def _block(
    path: bytes,
    kind: bytes,
    *,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: int = 0,
    attributes: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """Return one entry's header, with the PAX header that it needs before it."""
    seconds, nanoseconds = divmod(mtime, NANO)
    records = b""
    if len(path) > 100:
        records += record(b"path", path)
    if len(link) > 100:
        records += record(b"linkpath", link)
    if uid > SHORT_LIMIT:
        records += record(b"uid", b"%d" % uid)
    if gid > SHORT_LIMIT:
        records += record(b"gid", b"%d" % gid)
    if size > LONG_LIMIT:
        records += record(b"size", b"%d" % size)
    if nanoseconds or seconds > LONG_LIMIT:
        # All nine digits: mkfs.erofs before 1.9 reads them as a number of nanoseconds.
        records += record(b"mtime", b"%d.%09d" % (seconds, nanoseconds))
    for key in sorted(attributes or ()):
        records += record(xattrs.PAX_PREFIX + key, (attributes or {})[key])
    fields = (
        path[:100].ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % min(uid, SHORT_LIMIT),
        b"%07o\0" % min(gid, SHORT_LIMIT),
        b"%011o\0" % min(size, LONG_LIMIT),
        b"%011o\0" % min(seconds, LONG_LIMIT),
        b" " * 8,
        kind,
        link[:100].ljust(100, b"\0"),
        b"ustar\00000",
        bytes(64),
        b"%07o\0" % (device >> 20),
        b"%07o\0" % (device & 0xFFFFF),
    )
    header = b"".join(fields).ljust(tarheader.BLOCK, b"\0")
    header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
    if not records:
        return header
    padding = bytes(-len(records) % tarheader.BLOCK)
    return _block(b"pax", b"x", size=len(records)) + records + padding + header


def record(key: bytes, value: bytes) -> bytes:
    """Return one PAX record: its own length in decimal, key and value (POSIX.1-2001 pax)."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + len(str(len(body)))
    if len(str(length)) + len(body) != length:
        length += 1
    return b"%d" % length + body
