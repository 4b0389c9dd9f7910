"""Legal layers whose entries meet: each other, and layers below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import layers as maker
from layers import directory, file, hard_link, header, pax, symlink, tar, xattrs

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
