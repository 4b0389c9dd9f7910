"""Odd but legal images, and layers that the engine refuses: what sealing is measured with."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import layers as maker
from layers import directory, file, hard_link, header, pax, symlink, tar, xattrs

#: Layers of an image by name; every image gets a base layer with a program below these, except
#: those whose name begins with "first".
Images = Mapping[str, Sequence[bytes]]


def base(program: bytes) -> bytes:
    """Return a first layer: a static busybox, and directories that others imply."""
    return tar(
        directory("bin"),
        file("bin/busybox", program, mode=0o755),
        directory("etc", mtime=1_200_000_000),
        file("etc/issue", b"base\n"),
        directory("old", mode=0o2750, uid=7, gid=8, mtime=1_300_000_000),
        xattrs({"user.note": b"kept\n", "security.capability": maker.CAPABILITY}),
        directory("old/noted", mode=0o1777, uid=9, gid=10, mtime=1_400_000_000),
        file("old/noted/file"),
        directory("deep"),
        directory("deep/er", mode=0o700, uid=11, gid=12),
        directory("deep/er/est", mode=0o711, mtime=1_500_000_123),
        file("deep/er/est/file"),
        symlink("way", "deep/er"),
        file("plain", b"a file"),
        directory("gone"),
        directory("gone/below"),
        file("gone/below/file"),
    )


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
                *(file(f"many/{number:05}", b"%d" % number) for number in range(3000)),
                directory("a/" * 200),
            )
        ],
    }


def names_twice() -> Images:
    """Entries that meet another one, and hard links."""
    return {
        "duplicates": [
            tar(
                file("f", b"first", mode=0o600),
                file("f", b"second", mode=0o640, uid=3),
                directory("d", mode=0o700, mtime=5),
                xattrs({"user.a": b"1"}),
                directory("d", mode=0o711, uid=2, mtime=6),
                xattrs({"user.b": b"2"}),
                directory("./d/", mode=0o755, uid=b"\xff" * 8, mtime=7),
                file("was/file"),
                directory("was", mode=0o700),
                file("was/file/", b"again"),
                file("becomes dir"),
                directory("becomes dir"),
                file("becomes dir/below"),
                directory("becomes file"),
                file("becomes file/lost"),
                file("becomes file", b"now"),
                symlink("l", "f"),
                file("l", b"no link any more"),
                symlink("f", "d"),
                maker.entry("d2", maker.FIFO),
                directory("d2"),
            )
        ],
        "hard links": [
            tar(
                file("one", b"data", mode=0o600, uid=1, gid=1, mtime=100),
                hard_link("two", "one", mode=0o4711, uid=2, gid=2, mtime=200),
                xattrs({"user.by": b"link"}),
                hard_link("three", "./one", mode=0o640, uid=3, gid=3, mtime=300),
                symlink("soft", "one"),
                hard_link("soft too", "soft", uid=9),
                directory("dir"),
                hard_link("dir/abs", "/one", mode=0o640, uid=3, gid=3, mtime=300),
                hard_link("dir/up", "../../one", mode=0o640, uid=3, gid=3, mtime=300),
                hard_link("dir/dot", "two/.", mode=0o640, uid=3, gid=3, mtime=300),
                hard_link("dir/by", "dir/../one", mode=0o640, uid=3, gid=3, mtime=301),
                symlink("dir link", "dir"),
                hard_link("through", "dir link/abs", mode=0o641, uid=4, gid=4, mtime=302),
                maker.entry("fifo", maker.FIFO),
                hard_link("fifo too", "fifo"),
                maker.entry("char", maker.CHAR, major=1, minor=3),
                hard_link("char too", "char", mode=0o600),
                file("lost", b"its first name goes"),
                hard_link("kept", "lost"),
                hard_link("kept too", "kept"),
                file("lost", b"another file"),
                hard_link("late/implied", "one", mode=0o640, uid=3, gid=3, mtime=300),
                file("sub/x", b"in what goes"),
                hard_link("out", "sub/x"),
                file("sub", b"went"),
            )
        ],
        "hard links and capabilities": [
            tar(
                xattrs({"security.capability": maker.CAPABILITY, "user.x": b"stays"}),
                file("a", mode=0o755),
                hard_link("b", "a", mode=0o755),
                xattrs({"security.capability": maker.CAPABILITY}),
                file("c", mode=0o4755),
                xattrs({"security.capability": maker.CAPABILITY}),
                hard_link("d", "c", mode=0o4755),
            )
        ],
        "directories' times": [
            tar(
                directory("d", mtime=1000),
                file("d/later", mtime=2000),
                directory("to file", mtime=1001),
                file("to file", b"gets the directory's time", mtime=2001),
                directory("to link", mtime=1002),
                file("target", mtime=2002),
                symlink("to link", "target", mtime=2003),
                directory("twice", mtime=1003),
                directory("twice", mtime=1004),
                file("twice/child"),
            )
        ],
        "root entries": [
            tar(
                directory("./", mode=0o700, uid=5, mtime=5),
                directory("/", mode=0o711),
                directory(".", mode=0o711),
                directory("..", mode=0o711),
                file("../..", b"ignored"),
                directory("a/.."),
                header("", maker.DIR, mode=0o1777),
                file("f"),
            )
        ],
        "paths that climb": [
            tar(
                file("../../climbs", b"1"),
                file("/absolute", b"2"),
                file("a/../b", b"3"),
                file("c/../../../d", b"4"),
                file("././e/./f", b"5"),
                file("//g//h//", b"6"),
                hard_link("i", "../../../../climbs"),
                symlink("out", "../../../../../etc"),
                file("out/issue of ours", b"7"),
                symlink("abs", "/etc"),
                file("abs/also ours", b"8"),
            )
        ],
        "symlinked parents": [
            tar(
                directory("real"),
                symlink("rel", "real"),
                file("rel/1"),
                symlink("abs", "/real"),
                file("abs/2"),
                symlink("two", "rel"),
                file("two/3"),
                directory("real/sub"),
                symlink("real/up", "../real/sub"),
                file("rel/up/4"),
                symlink("lexical", "rel/../other"),
                file("lexical/5"),
                symlink("missing", "not/there/yet"),
                file("missing/6"),
                symlink("climbs", "../../../../real"),
                file("climbs/7"),
                symlink("abs2", "/two/up/../x"),
                file("abs2/8"),
                directory("two/up", mode=0o700, mtime=9),
                symlink("to base", "old/noted"),
                file("to base/9"),
                symlink("replaced", "real"),
                file("replaced/10"),
                directory("replaced", mtime=77),
                file("replaced/11"),
                symlink("a", "b/c"),
                symlink("b", "/real/sub"),
                directory("real/sub/c"),
                file("a/11"),
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


def layered() -> Images:
    """Whiteouts, opaque directories, implied directories, global headers."""
    many = [tar(file(f"layer/{number % 7}", b"%d" % number)) for number in range(120)]
    twice = tar(directory("etc"), file("etc/twice", b"twice"), file(".wh.plain"))
    return {
        "whiteouts": [
            tar(
                file("old/noted/.wh.file", mode=0o4777, uid=5, gid=6, mtime=77),
                file(".wh.gone", b"with data"),
                file("new/.wh.never there"),
                directory(".wh.plain", mode=0o700),
                file("plain", b"again after its whiteout"),
                symlink("etc/.wh.issue", "x"),
                file(".wh..wh.plnk", b"aufs"),
                file(".wh..wh.aufs", b"aufs"),
                hard_link("deep/.wh.er", "nowhere"),
            ),
            tar(file("gone", b"a file now"), file("deep/er/new", b"below what was deleted")),
        ],
        "opaque": [
            tar(
                file("old/before"),
                file("old/.wh..wh..opq"),
                file("old/after"),
                directory("deep"),
                directory("deep/er"),
                file("deep/er/.wh..wh..opq"),
                file("implied/for/marker/.wh..wh..opq"),
                directory("gone"),
                directory("gone/.wh..wh..opq"),
                file("way/.wh..wh..opq"),
            ),
            tar(file("old/noted/.wh..wh..opq"), file("deep/er/est/.wh..wh..opq")),
        ],
        "opaque root": [tar(file(".wh..wh..opq"), file("f"), file("old/noted/f"))],
        "opaque directory made anew": [
            tar(
                file("old/.wh..wh..opq"),
                file("old", b"a file"),
                directory("old"),
                file("old/new"),
            )
        ],
        "first whiteouts": [
            tar(
                directory("d", mtime=5),
                file("d/1"),
                file("d/2"),
                file("d/sub/3"),
                file("d/.wh.1"),
                file("d/.wh.sub"),
                file(".wh.nothing"),
                file("d/1", b"back"),
                file("implied/.wh.x"),
                file("e/f/g"),
                file("e/.wh.f"),
            )
        ],
        "first opaque": [
            tar(
                directory("d"),
                file("d/kept"),
                file("d/implied/lost"),
                directory("d/named"),
                file("d/named/kept"),
                file("d/named/implied/lost"),
                file("d/.wh..wh..opq"),
                file("d/after"),
                file("x/y", b"a file, named"),
                file("x/.wh.y"),
                file("x/y/z", b"below an implied directory of a name that was named"),
                file("x/q/r"),
                file("x/.wh..wh..opq"),
                pax({"comment": "global"}, b"g"),
                file("pax/kept", b"its parent has a global header's name"),
                file(".wh..wh..opq"),
            )
        ],
        "first opaque in the root": [
            tar(
                file("implied/lost"),
                directory("named"),
                file("file"),
                symlink("link", "named"),
                file("link/kept"),
                file(".wh..wh..opq"),
            )
        ],
        "implied": [
            tar(
                file("brand/new/file"),
                file("old/new", b"its parent is below"),
                file("old/noted/new"),
                file("deep/er/est/new"),
                file("way/through", b"a link in a layer below is followed there only"),
                file("plain/no directory below", b"x"),
                file("etc/x"),
            ),
            tar(file("brand/new/second"), file("old/noted/second"), file("way/second")),
        ],
        "implied after a whiteout": [
            tar(file(".wh.gone"), file("old/.wh.noted")),
            tar(file("gone/file"), file("old/noted/file")),
        ],
        "implied, then named": [
            tar(
                file("old/noted/1"),
                directory("old/noted", mode=0o755, mtime=3),
                directory("old", mode=0o755, uid=-1, gid=-1, mtime=4),
                file("fresh/1"),
                directory("fresh", mode=0o700, mtime=5),
            )
        ],
        "first implied": [
            tar(
                file("a/b/c"),
                directory("set", mode=0o2755, uid=3, gid=4),
                file("set/x/y/z", b"a set-group-ID directory gives its group"),
                symlink("l", "to/where"),
                file("l/file"),
            )
        ],
        "global headers": [
            tar(
                pax({"comment": "from git", "uid": "77", "SCHILY.xattr.user.g": "x"}, b"g"),
                file("f", b"not 77's"),
                file("pax", b"a global header's name deletes this"),
                pax({"mtime": "5"}, b"g"),
                pax({"path": "deep/er/est/global"}, b"g"),
                pax({"path": "lost to the global header"}),
                pax({"path": "x/y/z"}, b"g"),
                file("last"),
            )
        ],
        "the same layer twice": [twice, tar(file("between")), twice],
        "many layers": many,
    }


def refused() -> Mapping[str, bytes]:
    """Layers that containerd refuses on top of the base layer."""
    sparse = maker.GNU[:8]
    return {
        "old sparse": tar(header("s", b"S"[0], size=512, magic=sparse) + bytes(512)),
        "hard link to nothing": tar(hard_link("a", "nothing")),
        "hard link to what is below": tar(hard_link("a", "plain")),
        "hard link to a directory": tar(directory("d"), hard_link("a", "d")),
        "hard link out": tar(hard_link("a", "..")),
        "hard link to itself": tar(file("a"), hard_link("a", "a")),
        "hard link to the root": tar(hard_link("a", "/")),
        "hard link without target": tar(hard_link("a", "")),
        "file as a directory": tar(file("f"), file("f/below")),
        "file as a directory, deeper": tar(file("f"), file("f/g/below")),
        "fifo as a directory": tar(maker.entry("f", maker.FIFO), file("f/below")),
        "link to a file as a directory": tar(file("f"), symlink("l", "f"), file("l/below")),
        "contiguous file": tar(maker.entry("f", b"7"[0], b"x")),
        "volume header": tar(maker.entry("label", b"V"[0])),
        "unknown type": tar(maker.entry("f", b"Z"[0], b"x")),
        "whiteout without name": tar(file(".wh.")),
        "whiteout of the directory": tar(file("d/.wh..")),
        "whiteout of the parent": tar(file("d/.wh...")),
        "whiteout of its own": tar(file("f"), file(".wh.f")),
        "whiteout twice": tar(file(".wh.plain"), file(".wh.plain")),
        "symlink without target": tar(symlink("l", "")),
        "long symlink": tar(maker.long_name("t" * 5000, b"K"), symlink("l", "x", magic=maker.GNU)),
        "long name": tar(pax({"path": "n" * 256}), file("x")),
        "long name of a parent": tar(pax({"path": "n" * 256 + "/f"}), file("x")),
        "long path": tar(pax({"path": "/".join(["p" * 200] * 25)}), file("x")),
        "wrong checksum": tar(file("f", checksum=lambda _: b"0000001\0")),
        "no checksum": tar(file("f", checksum=lambda _: b"nonsense")),
        "size no number": tar(file("f", b"", size=b"12x")),
        "mode no number": tar(file("f", mode=b"rw-r--r-")),
        "device no number": tar(file("f", major=b"x")),
        "negative size": tar(file("f", b"", size=maker.base256(-1, 12))),
        "huge size": tar(file("f", b"", size=b"\x80" + b"\xff" * 11)),
        "negative PAX size": tar(pax({"size": "-1"}), file("f", b"")),
        "PAX uid no number": tar(pax({"uid": "x"}), file("f")),
        "PAX time no number": tar(pax({"mtime": "1.x"}), file("f")),
        "PAX record too long": tar(maker.entry("p", b"x"[0], b"99 path=x\n"), file("f")),
        "PAX record without newline": tar(maker.entry("p", b"x"[0], b"9 path=xy"), file("f")),
        "PAX record without value": tar(maker.entry("p", b"x"[0], b"8 path_\n"), file("f")),
        "PAX path with NUL": tar(pax({"path": "a\0b"}), file("f")),
        "PAX header too large": tar(pax({"comment": "x" * (1024 * 1024)}), file("f")),
        "PAX header in zeros": tar(maker.entry("p", b"x"[0], bytes(20)), file("f")),
        "sparse map too short": tar(
            maker.sparse_1("s", 9000, [(0, b"1" * 512)])[:-1024], b"\0" * 512
        ),
        "sparse data left over": tar(
            pax({"GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,5", "GNU.sparse.size": "9"}),
            file("s", b"123456789"),
        ),
        "sparse data missing": tar(
            pax({"GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,9", "GNU.sparse.size": "9"}),
            file("s", b"12345"),
        ),
        "sparse out of order": tar(
            pax(
                {"GNU.sparse.numblocks": "2", "GNU.sparse.map": "5,5,0,5", "GNU.sparse.size": "10"}
            ),
            file("s", b"1234567890"),
        ),
        "sparse count wrong": tar(
            pax({"GNU.sparse.numblocks": "2", "GNU.sparse.map": "0,5", "GNU.sparse.size": "10"}),
            file("s", b"12345"),
        ),
        "sparse directory": tar(
            pax(
                {"GNU.sparse.numblocks": "0", "GNU.sparse.map": "", "GNU.sparse.major": "0"}
                | {"GNU.sparse.minor": "1"}
            ),
            directory("s"),
        ),
        "capability of no kind": tar(xattrs({"security.capability": b"x"}), file("f")),
        "capability too short": tar(
            xattrs({"security.capability": maker.CAPABILITY[:12]}), file("f")
        ),
        "attribute without name": tar(xattrs({"user.": b"x"}), file("f")),
        "attribute with no name at all": tar(pax({"SCHILY.xattr.": "x"}), file("f")),
        "attribute with a long name": tar(xattrs({"user." + "n" * 251: b"x"}), file("f")),
        "cut off in data": tar(file("f", b"x" * 5000))[:3000],
        "cut off in a header": file("f") + file("g")[:200],
        "cut off in a PAX header": pax({"comment": "x" * 2000})[:1000],
        "header after zeros": file("f") + bytes(512) + file("g") + maker.END,
        "half a block after zeros": file("f") + bytes(700),
        "no tar at all": b"this is not a tar archive. " * 100,
        "symlink circle": tar(symlink("a", "b"), symlink("b", "a"), file("a/f")),
        "symlink to itself": tar(symlink("a", "a/x"), file("a/f")),
        "directory's time lost": tar(directory("d"), symlink("d", "nowhere")),
        "global header where a directory was": tar(
            directory("pax"), pax({"comment": "deletes it"}, b"g")
        ),
    }


def refused_first() -> Images:
    """Images that containerd refuses, without a base layer."""
    return {
        "deletes a directory of its own": [tar(directory("d"), file(".wh.d"))],
        "opaque after a symlink": [tar(directory("d"), symlink("d", "x"), file(".wh..wh..opq"))],
        "implied below a whiteout": [
            tar(directory("d"), directory("d/e"), file("d/e/f")),
            tar(file(".wh.d")),
            tar(file("d/e/g")),
        ],
        "implied below a file": [
            tar(directory("d"), directory("d/e")),
            tar(file("d")),
            tar(file("d/e/f")),
        ],
        "implied through a circle": [
            tar(symlink("d", "e"), symlink("e", "d")),
            tar(file("d/e/f")),
        ],
    }


def stricter() -> Mapping[str, bytes]:
    """Layers that some containerd takes and sealing refuses, because the result would not be exact.

    Device numbers that containerd before 2.4 cuts, and that mkfs.erofs mangles; access control
    lists, whose mask follows later changes of mode; paths that fit in PATH_MAX on one engine only.
    """
    acl = bytes.fromhex(
        "02000000 01000600ffffffff 04000400ffffffff 10000600ffffffff 20000000ffffffff"
    )
    return {
        "device out of range": tar(maker.entry("d", maker.CHAR, major=maker.base256(2**40, 8))),
        "negative device": tar(maker.entry("d", maker.CHAR, major=maker.base256(-1, 8))),
        "large minor": tar(maker.entry("d", maker.BLOCK, minor=0x80000)),
        "access control list": tar(xattrs({"system.posix_acl_access": acl}), file("f")),
        "attribute of another system": tar(xattrs({"gnu.x": b"1"}), file("f")),
        "path at the limit": tar(
            pax({"path": "/".join(["p" * 200] * 19 + ["q" * 190])}), file("x")
        ),
    }
