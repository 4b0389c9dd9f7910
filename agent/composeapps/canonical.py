"""Writes a tree as a tar stream in which everything is said, for ``mkfs.erofs --tar=f``.

Files first, in the order in which their data comes out of the layer, then directories, then
everything else, hard links last. ``mkfs.erofs`` (seen with 1.8.6 to 1.9.4) makes up the directories
that it needs for the files, and takes what their own entries say of them afterwards; nothing is
left for it to guess. ustar headers, with a PAX header before those that need one; overlay
whiteouts are the character devices 0:0 that they are.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping

from composeapps import tarheader, xattrs
from composeapps.blobstream import ByteStream
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


def write_files(tree: FileTree, stream: ByteStream, write: Write) -> bool:
    """Write all files of a finished tree, their data taken from the layer read once more.

    Returns:
        False where the layer is shorter now than when the tree was made of it.
    """
    regular = (node for node in tree.living() if stat.S_ISREG(tree.modes[node]))
    return all(write_file(tree, node, stream, write) for node in regular)


def write_file(tree: FileTree, node: int, stream: ByteStream, write: Write) -> bool:
    """Write one file, its data taken from the stream; False where the stream ends in it."""
    write(_header(tree, node, tree.path_of(node)))
    size = tree.sizes[node]
    if not size:
        return True
    stream.skip(tree.offsets[node] - stream.position)
    at = 0
    flat = tree.pieces.get(node)
    pieces = [(0, size)] if flat is None else zip(flat[::2], flat[1::2], strict=True)
    for offset, length in pieces:
        _write_zeros(offset - at, write)
        if stream.copy(length, write) < length:
            return False
        at = offset + length
    _write_zeros(size - at, write)
    _write_zeros(-size % tarheader.BLOCK, write)
    return True


def write_rest(tree: FileTree, write: Write) -> None:
    """Write everything of a finished tree but its files, and the archive's end."""
    write(_header(tree, ROOT, b"."))
    for directory, name, node in tree.walk():
        if tree.is_directory(node):
            write(_header(tree, node, tree.path(directory, name)))
    for node in tree.living():
        if not stat.S_ISREG(tree.modes[node]) and not stat.S_ISDIR(tree.modes[node]):
            write(_header(tree, node, tree.path_of(node)))
    for directory, name, node in tree.walk():
        if tree.links[node] > 1 and not tree.is_main_name(directory, name, node):
            write(_header(tree, node, tree.path(directory, name), link_to=tree.path_of(node)))
    write(bytes(2 * tarheader.BLOCK))


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
