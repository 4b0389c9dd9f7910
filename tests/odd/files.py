"""Legal layers with odd headers, contents, owners, times and attributes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import layers as maker
from layers import directory, file, hard_link, header, pax, symlink, tar, xattrs

Images = Mapping[str, Sequence[bytes]]


def kinds() -> Images:
    """Headers of all ages, and every kind of file."""
    v7 = {"magic": maker.V7}
    return {
        "first ustar": [
            tar(
                directory("d", mode=0o1777, uid=1, gid=2),
                file("d/plain", b"hello", mode=0o4755, uid=3, gid=4),
                file("d/set", b"s", mode=0o2755),
                file("d/none", b"", mode=0),
                symlink("d/link", "plain"),
                maker.entry("fifo", maker.FIFO, mode=0o640),
                maker.entry("char", maker.CHAR, major=5, minor=1, mode=0o666),
                maker.entry("block", maker.BLOCK, major=8, minor=300, mode=0o660, gid=6),
                maker.entry("big", maker.CHAR, major=4095, minor=0x7FFFF),
                hard_link("d/again", "d/plain", mode=0o4755, uid=3, gid=4),
            )
        ],
        "v7": [
            tar(
                maker.entry("dir/", 0, mode=0o750, **v7),
                maker.entry("dir/file", 0, b"old", **v7),
                maker.entry("dir/slash/", maker.FILE, b"a file all the same", **v7),
                maker.entry("dir/link", maker.SYMLINK, link="file", **v7),
                maker.entry("dir/hard", maker.LINK, link="dir/file", mode=0o600, **v7),
            )
        ],
        "gnu": [
            tar(
                file("g", b"1", magic=maker.GNU, at={345: b"07777777777\0", 357: b"07777777777\0"}),
                maker.long_name("d/" * 60 + "long name"),
                file("short", b"2", magic=maker.GNU),
                maker.long_name("n" * 200),
                maker.long_name("t" * 300, b"K"),
                symlink("s", "t", magic=maker.GNU),
                maker.long_name("t/" * 2047 + "t", b"K"),
                symlink("longest", "t", magic=maker.GNU),
                maker.long_name("t" * 2000, b"K"),
                xattrs({"user.x": b"ignored", "security.x": b"x" * 2500}),
                symlink("long, with an attribute", "t", magic=maker.GNU),
                maker.long_name("both"),
                pax({"path": "loses"}),
                file("loses too", b"3", magic=maker.GNU),
                # Before 1.8 Go wrote ustar's prefix into GNU headers.
                file("name", b"4", magic=maker.GNU, at={345: b"prefix/of/go"}),
            )
        ],
        "first pax": [
            tar(
                pax({"path": "lang/ü/" + "x" * 150, "mtime": "1234567890.123456789"}),
                file("short", b"1"),
                pax({"linkpath": "z" * 150, "path": "link"}),
                symlink("short", "short"),
                pax({"uid": "70000", "gid": "3000000000", "comment": "c", "VENDOR.x": "y"}),
                file("owner", b"2", uid=1, gid=1),
                pax({"size": "5"}),
                header("sized", size=0) + maker.padded(b"12345"),
                pax({"path": "", "uid": "", "mtime": ""}),
                file("empty records", b"3", uid=5),
                pax([("path", "first"), ("path", "second")]),
                file("neither", b"4"),
                pax({"path": "lost"}),
                pax({"mtime": "5"}),
                file("only the second header counts", b"5"),
                pax({"hdrcharset": "BINARY", "path": b"\xff\xfe"}),
                file("x", b"6"),
            )
        ],
        "star and prefixes": [
            tar(
                file("in prefix", prefix=b"a/b/c"),
                file("in star", magic=maker.STAR, prefix=b"star/p", at={476: b"00000000001\0"}),
                file("ends in slash/", prefix=b"d"),
                file("n" * 100, prefix=b"p" * 155),
            )
        ],
        "checksums": [
            tar(
                file(b"signed \xe4\xf6\xfc", checksum=maker.sum_signed),
                file(b"unsigned \xe4\xf6\xfc"),
                file("spaces", checksum=lambda block: b"%8o" % sum(block)),
                file("zeros", checksum=lambda block: b"%08o" % sum(block)),
                file("numbers", mode=b"644    \0", uid=b"\0\0\0\0\0\0\0\0", gid=b"   17 \0\0"),
                file("all digits", mode=b"00000644"),
            )
        ],
        "names": [
            tar(
                file(b"\xff\xfe\xfd not utf-8"),
                file("new\nline and \t tab"),
                file("back\\slash"),
                file(" "),
                file(b"\x01\x02\x7f"),
                file("ends with space "),
                directory("nb " + "ü" * 40),
                pax({"path": "l" * 255}),
                file("x"),
                pax({"path": "/".join(["p" * 200] * 19)}),
                file("x"),
                pax({"path": b"\xf0" * 255 + b"/" + b"\xf1" * 255}),
                file("x"),
                file("...", b"dots"),
                file(".whatever", b"no whiteout"),
                file("a.wh.b", b"no whiteout"),
            )
        ],
        "sizes where no data is": [
            tar(
                header("dir", maker.DIR, size=1000, mode=0o755),
                header("link", maker.SYMLINK, size=77, link="x"),
                file("f", b"data"),
                header("hard", maker.LINK, size=4, link="f"),
                header("fifo", maker.FIFO, size=512),
                file("after", b"still here"),
            )
        ],
    }


def data() -> Images:
    """Contents: sparse files, sizes, ends of archives."""
    noise = random.Random(7).randbytes(3_000_000)
    one, two = b"1" * 512, b"2" * 700
    return {
        "sparse": [
            tar(
                maker.sparse_0("s00", 9000, [(0, one), (4096, two)], minor=0),
                maker.sparse_0("s01", 9000, [(512, one), (4096, two)]),
                maker.sparse_1("s10", 100_000, [(512, one), (40_960, two)]),
                maker.sparse_1("hole", 1_000_000, [(1_000_000, b"")]),
                maker.sparse_1("no hole", 512, [(0, one)]),
                maker.sparse_1("nothing", 0, []),
                maker.sparse_1("empty pieces", 5000, [(0, b""), (100, b"abc"), (300, b"")]),
                maker.sparse_0("only hole", 70_000, []),
                maker.sparse_1("x" * 150, 20_000, [(10_000, noise[:5000])]),
                maker.sparse_1("many", 400_000, [(i * 2000, b"%03d" % i) for i in range(200)]),
                file("after", b"still here"),
                hard_link("s10 again", "s10"),
            )
        ],
        "contents": [
            tar(
                file("noise", noise),
                file("text", b"the same again and again\n" * 100_000),
                file("empty", b""),
                *(file(f"size {size}", noise[:size]) for size in (1, 511, 512, 513, 4095, 4096)),
                *(file(f"size {size}", noise[:size]) for size in (4097, 65535, 65536, 1 << 20)),
            )
        ],
        "first empty archive": [tar()],
        "no bytes": [b""],
        "one block of zeros": [bytes(512)],
        "no end": [file("f", b"x" * 512)],
        "padding cut off": [file("f", b"hello")[: 512 + 5]],
        "garbage after the end": [tar(file("f")) + b"garbage" * 1000],
        "header for nothing": [file("f") + pax({"path": "x"}) + maker.END],
        "header for nothing, cut off": [file("f") + pax({"path": "x"})[:-100]],
        "zeros then end": [file("f") + bytes(512)],
        "many": [
            tar(
                directory("many"),
                *(file(f"many/{number:05}", b"%d" % number) for number in range(1000)),
                directory("a/" * 200),
            )
        ],
    }


def attributes() -> Images:
    """Owners, times, extended attributes, devices."""
    return {
        "times": [
            tar(
                file("1969", mtime=-1),
                file("1901", mtime=maker.base256(-(2**31), 12)),
                file("2038", mtime=2**31),
                file("2106", mtime=2**32 + 5),
                file("2261", mtime=9_190_000_000),
                file("2262", mtime=9_223_372_036),
                file("2263", mtime=9_223_372_037),
                file("2446", mtime=15_032_385_536),
                file("far", mtime=maker.base256(2**62, 12)),
                directory("dir 1960", mtime=-300_000_000),
                pax({"mtime": "-5.5"}),
                file("pax before"),
                pax({"mtime": "-0.5"}),
                file("pax just before"),
                pax({"mtime": "1.000000001"}),
                file("nanosecond"),
                pax({"mtime": "1.0000000019"}),
                file("more digits"),
                pax({"mtime": "1."}),
                file("no digits"),
                pax({"mtime": "9223372036.854775807"}),
                file("last"),
                pax({"mtime": "9223372036.854775808"}),
                file("after the last"),
                pax({"mtime": "99999999999999"}),
                directory("dir far"),
                pax({"mtime": "+7.25", "atime": "9.5", "ctime": "1"}),
                symlink("link", "x"),
                pax({"atime": "1700000000"}),
                file("newer atime", mtime=5),
            )
        ],
        "owners": [
            tar(
                file("big", uid=2**31, gid=2**32 - 2),
                file("minus one", uid=-1, gid=-1),
                pax({"uid": "4294967295", "gid": "4294967296"}),
                file("wraps"),
                pax({"uid": "-2", "gid": "9223372036854775807"}),
                file("wraps too"),
                directory("set", mode=0o2775, uid=5, gid=6),
                file("set/inherits", uid=-1, gid=-1),
                directory("set/dir", uid=-1, gid=-1, mode=0o755),
                file("set/implied/file"),
                maker.entry("set/fifo", maker.FIFO, uid=-1, gid=-1),
                symlink("set/link", "x", uid=-1, gid=-1),
                file("modes", mode=0o107777),
                file("modes 2", mode=b"0177777\0"),
                directory("modes 3", mode=0o40755),
                file("negative", mode=maker.base256(-1, 8)),
                file("octal", uid=0o7777777, gid=0o7777777),
            )
        ],
        "extended attributes": [
            tar(
                xattrs({"user.a": b"1", "user.empty": b"", "user.binary": b"\0\n=\xff\0"}),
                file("f"),
                xattrs({"user.dir": b"x" * 2000}),
                directory("d"),
                xattrs({"user.x": b"1", "security.capability": maker.CAPABILITY}),
                symlink("ignored on links", "x"),
                xattrs({"user.x": b"1", "security.mine": b"kept"}),
                maker.entry("fifo", maker.FIFO),
                xattrs({"trusted.x": b"1", "trusted.overlay.opaque": b"y", "user.y": b"1"}),
                directory("trusted"),
                xattrs({"nonsense.x": b"1", "system.y": b"2", "foo": b"3", "user": b"4"}),
                file("unknown"),
                xattrs({"user." + "n" * 250: b"long name"}),
                file("long"),
                xattrs(
                    {"security.selinux": b"system_u:object_r:bin_t:s0\0", "user.overlay.x": b"1"}
                ),
                file("labels"),
                pax({"LIBARCHIVE.xattr.user.z": "eA", "RHT.security.selinux": "x"}),
                file("other dialects"),
                xattrs({"security.capability": bytes.fromhex("01000003" + "00" * 16 + "e8030000")}),
                file("capability 3", mode=0o755),
                xattrs({f"user.{number}": b"%d" % number for number in range(60)}),
                file("sixty"),
            )
        ],
        "devices": [
            tar(
                maker.entry("null", maker.CHAR, major=1, minor=3, mode=0o666),
                maker.entry("zero", maker.CHAR, major=0, minor=0, mode=0o600, uid=3),
                maker.entry("minor", maker.BLOCK, major=259, minor=0x12345),
                maker.entry("fifo", maker.FIFO, major=3, minor=4),
                maker.entry("v7", maker.CHAR, magic=maker.V7),
                xattrs({"security.x": b"1"}),
                maker.entry("marked", maker.BLOCK, major=7, minor=0),
            )
        ],
    }
