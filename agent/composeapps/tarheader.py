"""Parses tar headers and PAX records as Go's ``archive/tar`` does, because containerd does.

v7, ustar, STAR, GNU and PAX headers (POSIX.1-2001 pax; GNU tar manual, "Tar Internals"), numbers
in octal or base 256. Where Go's reader errs, this one raises; where it is lenient, so is this one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from composeapps.errors import SealError
from composeapps.rootpath import text

BLOCK = 512
NANO = 1_000_000_000

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0123456"
OLD_REGULAR = 0
PAX_HEADER, PAX_GLOBAL = b"xg"
GNU_SPARSE, GNU_LONG_NAME, GNU_LONG_LINK = b"SLK"

_INTEGER = re.compile(rb"[+-]?[0-9]+\Z")
_OCTAL = re.compile(rb"[0-7]+\Z")
_DIGITS = re.compile(rb"[0-9]*\Z")


@dataclass(slots=True)
class Member:
    """One entry of a tar archive, as Go's ``tar.Header`` would have it."""

    type: int
    name: bytes
    link: bytes = b""
    #: Bytes of the file, holes included.
    size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    #: Nanoseconds since 1970, not bounded in any way.
    mtime: int = 0
    major: int = 0
    minor: int = 0
    #: The PAX records that belong to this entry.
    records: Mapping[bytes, bytes] = field(default_factory=dict)
    #: Where the data lies in the stream, and how many bytes of it there are.
    offset: int = 0
    stored: int = 0
    #: (offset in the file, length) of each piece of data; None where the file is not sparse.
    pieces: list[tuple[int, int]] | None = None


def until_nul(field_bytes: bytes) -> bytes:
    end = field_bytes.find(0)
    return field_bytes if end < 0 else field_bytes[:end]


def _number(field_bytes: bytes) -> int:
    """Return a numeric field's value, octal or base 256; raises ValueError."""
    if field_bytes[0] & 0x80:
        value = int.from_bytes(field_bytes, "big")
        bits = len(field_bytes) * 8
        value &= (1 << (bits - 1)) - 1
        if field_bytes[0] & 0x40:
            value -= 1 << (bits - 1)
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError("number too large")
        return value
    return _octal(field_bytes)


def _octal(field_bytes: bytes) -> int:
    digits = until_nul(field_bytes.strip(b" \0"))
    if not digits:
        return 0
    if not _OCTAL.match(digits):
        raise ValueError("a number is not octal")
    return int(digits, 8)


#: For the fields that mostly repeat from entry to entry.
_usual_number = lru_cache(maxsize=256)(_number)


def _check_sum(block: bytes) -> bool:
    """True where the checksum is right, taken over unsigned or over signed bytes."""
    try:
        stored = _octal(block[148:156])
    except ValueError:
        return False
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    if stored == unsigned:
        return True
    high = sum(1 for byte in block[:148] + block[156:] if byte & 0x80)
    return stored == unsigned - 256 * high


def parse_header(block: bytes) -> Member:
    """Return what one header block says; raises SealError."""
    name = until_nul(block[:100])
    if not _check_sum(block):
        raise SealError(f"tar header of {text(name)} is not valid: its checksum is wrong")
    try:
        member = Member(
            type=block[156],
            name=name,
            link=until_nul(block[157:257]),
            size=_number(block[124:136]),
            mode=_usual_number(block[100:108]),
            uid=_usual_number(block[108:116]),
            gid=_usual_number(block[116:124]),
            mtime=_number(block[136:148]) * NANO,
        )
        prefix = b""
        magic = block[257:263]
        if magic == b"ustar\0" or block[257:265] == b"ustar  \0":
            member.major = _usual_number(block[329:337])
            member.minor = _usual_number(block[337:345])
            prefix = _prefix(block, magic)
    except ValueError as error:
        raise SealError(f"tar header of {text(name)} is not valid: {error}") from error
    if prefix:
        member.name = prefix + b"/" + member.name
    return member


def _prefix(block: bytes, magic: bytes) -> bytes:
    """Return what stands before the name, for ustar, STAR and (from Go before 1.8) GNU headers."""
    if magic == b"ustar\0":
        if block[508:512] == b"tar\0":
            _number(block[476:488])
            _number(block[488:500])
            return until_nul(block[345:476])
        return until_nul(block[345:500])
    try:
        for start in (345, 357):
            if block[start]:
                _number(block[start : start + 12])
    except ValueError:
        prefix = until_nul(block[345:500])
        return prefix if prefix.isascii() else b""
    return b""


def integer(digits: bytes) -> int:
    """Return a decimal number as Go's ``strconv.ParseInt`` does; raises ValueError."""
    if not _INTEGER.match(digits) or len(digits) > 100:
        raise ValueError("not a decimal number")
    value = int(digits)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError("number too large")
    return value


def parse_time(value: bytes) -> int:
    """Return a PAX time in nanoseconds; raises ValueError."""
    seconds, _, fraction = value.partition(b".")
    whole = integer(seconds) * NANO
    if not fraction:
        return whole
    if not _DIGITS.match(fraction):
        raise ValueError("not a time")
    nanoseconds = int(fraction[:9].ljust(9, b"0"))
    return whole - nanoseconds if seconds.startswith(b"-") else whole + nanoseconds


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Return the records of a PAX header; sparse format 0.0 becomes 0.1."""
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    at = 0
    while at < len(data):
        key, value, at = _parse_record(data, at)
        if key not in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            records[key] = value
            continue
        expected = b"GNU.sparse.numbytes" if len(sparse) % 2 else b"GNU.sparse.offset"
        if key != expected or b"," in value:
            raise SealError("a PAX header's sparse map is not valid")
        sparse.append(value)
    if sparse:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records


def _parse_record(data: bytes, at: int) -> tuple[bytes, bytes, int]:
    """Return key, value and the next record's place; raises SealError."""
    space = data.find(b" ", at, at + 32)
    try:
        length = integer(data[at:space]) if space > at else -1
    except ValueError:
        length = -1
    end = at + length
    if length < 5 or end > len(data) or end <= space + 1 or data[end - 1] != 0x0A:
        raise SealError("a PAX header's record has a wrong length")
    key, equals, value = data[space + 1 : end - 1].partition(b"=")
    if not key or not equals or b"\0" in key:
        raise SealError("a PAX header's record has no valid key")
    if key in (b"path", b"linkpath", b"uname", b"gname") and b"\0" in value:
        raise SealError(f"a PAX header's {key.decode()} holds a NUL")
    return key, value, end
