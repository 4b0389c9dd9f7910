"""Reading tar: what each header means, what is refused, and that nothing unbounded is read."""

from __future__ import annotations

import random
from collections.abc import Iterator

import layers as maker
import odd
import pytest

from composeapps import tarheader, tarstream
from composeapps.blobstream import ByteStream
from composeapps.errors import SealError
from composeapps.tarheader import Member

SECOND = 1_000_000_000


def stream(data: bytes, piece: int = 700) -> ByteStream:
    """Return a stream that arrives in pieces that fit no block."""
    return ByteStream(iter([data[at : at + piece] for at in range(0, len(data), piece)]))


def members(data: bytes) -> list[Member]:
    """Return all entries of an archive."""
    return list(tarstream.members(stream(data)))


def contents(data: bytes) -> dict[bytes, bytes]:
    """Return name and data of every entry, read through the reader's own offsets."""
    source = stream(data)
    found = {}
    for member in tarstream.members(source):
        assert source.position == member.offset
        found[member.name] = source.read(member.stored)
    return found


def test_fields() -> None:
    entry = maker.file("a", b"data", mode=0o4755, uid=1, gid=2, mtime=3, prefix=b"p")
    (member,) = members(maker.tar(entry))
    assert (member.name, member.size, member.mode) == (b"p/a", 4, 0o4755)
    assert (member.uid, member.gid, member.mtime) == (1, 2, 3 * SECOND)
    assert (member.offset, member.stored, member.pieces) == (512, 4, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"00000644", 0o644),
        (b"    644\0", 0o644),
        (b"644 \0\0\0\0", 0o644),
        (b"\0\0\0\0\0\0\0\0", 0),
        (b"        ", 0),
        (b"\x80\0\0\0\0\0\0\x05", 5),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff", -1),
        (b"\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        (b"\x80\0\0\1\0\0\0\0", 1 << 32),
    ],
)
def test_numbers(field: bytes, value: int) -> None:
    assert members(maker.tar(maker.file("f", uid=field)))[0].uid == value


@pytest.mark.parametrize("field", [b"8", b"-1", b"0x1", b"1_0", b"\t1", b"1 2", b"+1", b"a"])
def test_what_is_no_number(field: bytes) -> None:
    with pytest.raises(SealError, match="not octal"):
        members(maker.tar(maker.file("f", uid=field)))


def test_base_256_has_a_limit() -> None:
    largest = b"\x80\0\0\0" + b"\x7f" + b"\xff" * 7
    assert members(maker.tar(maker.file("f", mtime=largest)))[0].mtime == (2**63 - 1) * SECOND
    with pytest.raises(SealError, match="too large"):
        members(maker.tar(maker.file("f", mtime=b"\x80\0\0\0\x80" + bytes(7))))


@pytest.mark.parametrize(
    ("value", "mtime"),
    [
        ("1", SECOND),
        ("1.5", 15 * SECOND // 10),
        ("1.", SECOND),
        ("-1.5", -15 * SECOND // 10),
        ("-0.5", -SECOND // 2),
        ("+2.000000001", 2 * SECOND + 1),
        ("3.0000000019999", 3 * SECOND + 1),
    ],
)
def test_pax_times(value: str, mtime: int) -> None:
    archive = maker.tar(maker.pax({"mtime": value}), maker.file("f"))
    assert members(archive)[0].mtime == mtime


@pytest.mark.parametrize("value", [".5", "x", "1.x", "1e3", " 1", "1_0", str(2**63)])
def test_what_is_no_pax_time(value: str) -> None:
    with pytest.raises(SealError, match="PAX record"):
        members(maker.tar(maker.pax({"mtime": value}), maker.file("f")))


def test_long_names_win_over_pax() -> None:
    archive = maker.tar(
        maker.long_name("long"),
        maker.pax({"path": "pax", "linkpath": "pax link"}),
        maker.symlink("short", "short link"),
    )
    (member,) = members(archive)
    assert (member.name, member.link) == (b"long", b"pax link")


def test_empty_records_replace_nothing() -> None:
    archive = maker.tar(maker.pax({"path": "", "uid": ""}), maker.file("f", uid=5))
    (member,) = members(archive)
    assert (member.name, member.uid, member.records) == (b"f", 5, {b"path": b"", b"uid": b""})


def test_old_regular_files_and_directories() -> None:
    archive = maker.tar(maker.entry("d/", 0), maker.entry("f", 0, b"x"), maker.entry("g/", 0x30))
    types = [(member.name, member.type) for member in members(archive)]
    directory, regular = tarheader.DIRECTORY, tarheader.REGULAR
    assert types == [(b"d/", directory), (b"f", regular), (b"g/", regular)]


def test_a_global_header_is_an_entry_and_drops_what_stood_before_it() -> None:
    archive = maker.tar(
        maker.pax({"path": "dropped"}), maker.pax({"uid": "7"}, b"g"), maker.file("f", uid=1)
    )
    first, second = members(archive)
    assert (first.type, first.name, first.records) == (tarheader.PAX_GLOBAL, b"pax", {})
    assert (second.name, second.uid) == (b"f", 1)


@pytest.mark.parametrize("make", [maker.sparse_0, maker.sparse_1])
def test_sparse(make: object) -> None:
    assert callable(make)
    pieces = [(512, b"a" * 700), (5000, b"b" * 10)]
    archive = maker.tar(make("s", 9000, pieces), maker.file("after", b"here"))
    source = stream(archive)
    found = tarstream.members(source)
    member = next(found)
    assert (member.name, member.size, member.stored) == (b"s", 9000, 710)
    assert member.pieces == [(512, 700), (5000, 10)]
    assert source.read(710) == b"a" * 700 + b"b" * 10
    assert next(found).name == b"after"


def test_sparse_0_0_comes_in_pairs() -> None:
    archive = maker.tar(maker.sparse_0("s", 900, [(0, b"abc"), (600, b"def")], minor=0))
    assert members(archive)[0].pieces == [(0, 3), (600, 3)]


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        maker.END,
        bytes(512),
        maker.file("f", b"x" * 512),
        maker.file("f")[:513],
        maker.file("f") + maker.pax({"path": "for nothing"}),
        maker.file("f") + maker.pax({"path": "for nothing"})[:-100],
        maker.tar(maker.file("f")) + b"garbage",
    ],
)
def test_ends(archive: bytes) -> None:
    assert [member.name for member in members(archive)] == [b"f"] * bool(archive.strip(b"\0"))


@pytest.mark.parametrize(
    ("name", "archive"),
    [(name, archive) for name, archive in odd.refused().items() if "cut off" in name],
)
def test_cut_off(name: str, archive: bytes) -> None:
    with pytest.raises(SealError):
        members(archive)


def test_data_is_found_again() -> None:
    archive = maker.tar(
        maker.file("a", b"1" * 1000), maker.directory("d", size=99), maker.file("b", b"2")
    )
    assert contents(archive) == {b"a": b"1" * 1000, b"d": b"", b"b": b"2"}


def test_both_checksums() -> None:
    name = b"\xe4\xf6\xfc"
    for checksum in (maker.sum_signed, maker.sum_unsigned):
        assert members(maker.tar(maker.file(name, checksum=checksum)))[0].name == name
    with pytest.raises(SealError, match="checksum"):
        members(maker.tar(maker.file(name, checksum=lambda block: b"%06o\0 " % (sum(block) + 1))))


def test_special_headers_are_bounded() -> None:
    """A header that claims gigabytes is refused before any of them is read."""

    def endless() -> Iterator[bytes]:
        yield maker.header("p", b"x"[0], size=2**33)
        raise AssertionError("it read on")

    with pytest.raises(SealError, match="larger than"):
        list(tarstream.members(ByteStream(endless())))


def test_sparse_maps_are_bounded() -> None:
    """A map that claims a thousand million pieces ends at the limit, not in memory."""
    records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    data = b"1000000000\n" + b"1\n" * (2**20)
    with pytest.raises(SealError, match="does not end"):
        members(maker.tar(maker.pax(records), maker.file("s", data)))


def test_damaged_archives_are_answers(rng: random.Random) -> None:
    """Whatever bytes change, the answer is entries or a SealError, never another exception."""
    sources = [layer for layers in odd.IMAGES.values() for layer in layers[:1]]
    sources = [layer[:20_000] for layer in sources]
    refused = 0
    for _ in range(3000):
        data = bytearray(rng.choice(sources))
        for _ in range(rng.randrange(1, 4)):
            if data:
                block = rng.randrange(0, len(data), 512)
                at = min(block + rng.randrange(512), len(data) - 1)
                data[at] = rng.choice([0, 0x20, 0x37, 0x80, 0xFF, rng.randrange(256)])
                fresh = data[block : block + 148] + b" " * 8 + data[block + 156 : block + 512]
                data[block + 148 : block + 156] = b"%06o\0 " % sum(fresh)
        try:
            members(bytes(data))
        except SealError:
            refused += 1
    assert 300 < refused < 2900, refused
