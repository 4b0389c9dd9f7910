"""Reads the entries of a tar stream as Go's ``archive/tar`` reads them, because containerd does.

GNU long names, PAX headers, global headers, PAX sparse files 0.0, 0.1 and 1.0; headers themselves
are ``tarheader``'s, and what an entry means for a file system is ``layertree``'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from composeapps.blobstream import ByteStream
from composeapps.errors import SealError
from composeapps.rootpath import text
from composeapps.tarheader import (
    BLOCK,
    DIRECTORY,
    GNU_LONG_LINK,
    GNU_LONG_NAME,
    GNU_SPARSE,
    OLD_REGULAR,
    PAX_GLOBAL,
    PAX_HEADER,
    REGULAR,
    Member,
    integer,
    parse_header,
    parse_pax,
    parse_time,
    until_nul,
)

ZERO_BLOCK = bytes(BLOCK)
#: Bytes of one PAX header, long name or sparse map; Go's ``maxSpecialFileSize``.
SPECIAL_LIMIT = 1024 * 1024
#: Types that have no data, whatever their size field says.
HEADER_ONLY = frozenset(b"123456")


def members(stream: ByteStream) -> Iterator[Member]:
    """Yield the entries of an archive; data that the caller leaves is skipped.

    Raises:
        SealError: a header is not valid, or the archive is cut off inside an entry.
    """
    while True:
        member = _next_member(stream)
        if member is None:
            return
        end = member.offset + member.stored
        yield member
        _skip_data(stream, end - stream.position, member.name)
        if not _skip_padding(stream, end):
            return


def _next_member(stream: ByteStream) -> Member | None:
    """Read headers up to the next entry; None at the archive's end."""
    records: dict[bytes, bytes] = {}
    long_name = long_link = b""
    while True:
        block = _read_header_block(stream)
        if block is None:
            return None
        member = parse_header(block)
        if member.type not in HEADER_ONLY and member.size < 0:
            raise _invalid(stream, "its size is negative")
        if member.type in (PAX_HEADER, PAX_GLOBAL):
            records = parse_pax(_read_special(stream, member.size))
            if member.type == PAX_GLOBAL:
                # Go hands it out as an entry and drops what was collected for the next one. Where
                # another record is not valid, Go settles by chance whether the name counts.
                if records.get(b"path"):
                    _merge(member, records, stream)
                member.name = records.get(b"path") or member.name
                return Member(PAX_GLOBAL, member.name, offset=stream.position)
        elif member.type in (GNU_LONG_NAME, GNU_LONG_LINK):
            value = until_nul(_read_special(stream, member.size))
            if member.type == GNU_LONG_NAME:
                long_name = value
            else:
                long_link = value
        else:
            _merge(member, records, stream)
            member.name = long_name or member.name
            member.link = long_link or member.link
            return _finish(member, stream)
        if not _skip_padding(stream, stream.position):
            return None


def _finish(member: Member, stream: ByteStream) -> Member:
    """Settle an entry's type and where its data is, once all its headers are read."""
    if member.type == OLD_REGULAR:
        member.type = DIRECTORY if member.name.endswith(b"/") else REGULAR
    if member.type == GNU_SPARSE:
        raise SealError(f"entry {text(member.name)}: containerd takes no old GNU sparse files")
    header_only = member.type in HEADER_ONLY
    if not header_only and member.size < 0:
        raise _invalid(stream, "its size is negative")
    member.stored = 0 if header_only else member.size
    _read_sparse(member, stream)
    member.offset = stream.position
    if member.pieces is not None and header_only:
        raise _invalid(stream, "an entry without data has a sparse map")
    return member


def _invalid(stream: ByteStream, reason: str) -> SealError:
    return SealError(f"tar header before byte {stream.position} is not valid: {reason}")


def _skip_data(stream: ByteStream, count: int, name: bytes) -> None:
    if count < 0 or stream.skip(count) < count:
        raise SealError(f"entry {text(name)}: the archive ends inside its data")


def _skip_padding(stream: ByteStream, end: int) -> bool:
    """Pass over the bytes up to a block's end; False where the archive ends in them."""
    count = -end % BLOCK
    return stream.skip(count) == count


def _read_header_block(stream: ByteStream) -> bytes | None:
    """Return a header block; None at the end: no bytes, or up to two blocks of zeros."""
    block = stream.read(BLOCK)
    if not block:
        return None
    if block == ZERO_BLOCK:
        block = stream.read(BLOCK)
        if block in (b"", ZERO_BLOCK):
            return None
        raise _invalid(stream, "it follows a block of zeros")
    if len(block) < BLOCK:
        raise _invalid(stream, "it is cut off")
    return block


def _read_special(stream: ByteStream, size: int) -> bytes:
    if size > SPECIAL_LIMIT:
        raise _invalid(stream, f"a special header is larger than {SPECIAL_LIMIT} bytes")
    data = stream.read(size)
    if len(data) < size:
        raise _invalid(stream, "a special header is cut off")
    return data


def _merge(member: Member, records: dict[bytes, bytes], stream: ByteStream) -> None:
    """Let PAX records replace what the header block says; empty ones replace nothing."""
    if not records:
        return
    member.records = records
    member.name = records.get(b"path") or member.name
    member.link = records.get(b"linkpath") or member.link
    try:
        if value := records.get(b"uid"):
            member.uid = integer(value)
        if value := records.get(b"gid"):
            member.gid = integer(value)
        if value := records.get(b"size"):
            member.size = integer(value)
        if value := records.get(b"mtime"):
            member.mtime = parse_time(value)
        for key in (b"atime", b"ctime"):
            if value := records.get(key):
                parse_time(value)
    except ValueError as error:
        raise _invalid(stream, f"PAX record: {error}") from error


def _read_sparse(member: Member, stream: ByteStream) -> None:
    """Read the map of a PAX sparse file, where there is one, and settle its name and size."""
    records = member.records
    version = (records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b""))
    if version not in ((b"0", b"0"), (b"0", b"1"), (b"1", b"0")) and (
        version != (b"", b"") or not records.get(b"GNU.sparse.map")
    ):
        return
    member.name = records.get(b"GNU.sparse.name") or member.name
    size = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
    try:
        if size:
            member.size = integer(size)
        numbers = _map_in_data(member, stream) if version[0] == b"1" else _map_in_records(records)
    except ValueError as error:
        raise SealError(
            f"entry {text(member.name)}: its sparse map is not valid: {error}"
        ) from error
    pieces = list(zip(numbers[::2], numbers[1::2], strict=True))
    end = 0
    for offset, length in pieces:
        if offset < end or length < 0 or offset + length > member.size:
            raise SealError(f"entry {text(member.name)}: its sparse map is not in order")
        end = offset + length
    if member.size < 0:
        raise SealError(f"entry {text(member.name)}: its size is negative")
    member.pieces = [piece for piece in pieces if piece[1]]


def _map_in_records(records: Mapping[bytes, bytes]) -> list[int]:
    count = integer(records.get(b"GNU.sparse.numblocks", b""))
    packed = records.get(b"GNU.sparse.map", b"")
    numbers = [integer(number) for number in packed.split(b",")] if packed else []
    if len(numbers) != 2 * count:
        raise ValueError("it has another length than said")
    return numbers


def _map_in_data(member: Member, stream: ByteStream) -> list[int]:
    """Read a sparse map 1.0: decimal lines before the data, filled up to a block's end."""
    buffer = bytearray()
    used = 0

    def feed(lines: int) -> None:
        nonlocal used
        found = buffer.count(b"\n")
        while found < lines:
            used += BLOCK
            if used > SPECIAL_LIMIT or used > member.stored:
                raise ValueError("it does not end")
            block = stream.read(BLOCK)
            if len(block) < BLOCK:
                raise ValueError("it is cut off")
            buffer.extend(block)
            found += block.count(b"\n")

    feed(1)
    count = integer(bytes(buffer[: buffer.index(b"\n")]))
    if count < 0:
        raise ValueError("its length is negative")
    feed(1 + 2 * count)
    lines = bytes(buffer).split(b"\n")[1 : 1 + 2 * count]
    member.stored -= used
    return [integer(line) for line in lines]
