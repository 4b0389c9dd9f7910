"""What entries make of a tree: containerd's rules, one by one."""

from __future__ import annotations

import stat
from typing import Any

import layers as maker
import pytest
from layers import directory, file, hard_link, pax, symlink, tar, xattrs
from layertreeparts import chain, made
from trees import applied, of_tree, stream

from composeapps import tarstream
from composeapps.filetree import FileTree
from composeapps.layertree import Applier

SECOND = 1_000_000_000


def upper(*entries: bytes) -> dict[str, dict[str, Any]]:
    """Return the tree of a layer that is not the first of its chain."""
    return made(*entries, below=(tar(),))


def permissions(tree: dict[str, dict[str, Any]], path: str) -> int:
    mode: int = tree[path]["mode"]
    return stat.S_IMODE(mode)


def test_the_last_entry_wins_and_directories_merge() -> None:
    tree = made(
        directory("d", mode=0o700),
        file("d/f"),
        xattrs({"user.a": b"1"}),
        directory("d", mode=0o711, uid=5),
        file("x", b"first"),
        file("x", b"second one"),
        directory("y"),
        file("y/lost"),
        file("y"),
    )
    assert sorted(tree) == ["", "d", "d/f", "x", "y"]
    assert (permissions(tree, "d"), tree["d"]["owner"]) == (0o711, (5, 0))
    assert tree["d"]["xattrs"] == {b"user.a": b"1"}
    assert tree["x"]["size"] == 10
    assert stat.S_ISREG(tree["y"]["mode"])


def test_implied_directories_with_nothing_below() -> None:
    tree = made(directory("s", mode=0o2755, gid=7), file("s/a/b/f", uid=3))
    assert (permissions(tree, "s/a"), tree["s/a"]["owner"]) == (0o755, (0, 7))
    # The group is only given on by a set-group-ID directory, and an implied one is none.
    assert tree["s/a/b"]["owner"] == (0, 0)
    assert tree["s/a"]["mtime"] == 0


def test_implied_directories_take_after_the_layers_below() -> None:
    low = tar(
        xattrs({"user.a": b"1"}),
        directory("d", mode=0o1770, uid=1, gid=2, mtime=5),
        directory("d/e", mode=0o700, uid=3),
        symlink("l", "d"),
    )
    middle = tar(directory("d", mode=0o711, uid=9, mtime=6))
    tree = made(file("d/e/f"), file("l/g"), below=(low, middle))
    # The topmost layer that has the directory counts, its attributes and all.
    assert (permissions(tree, "d"), tree["d"]["owner"]) == (0o711, (9, 0))
    assert tree["d"]["xattrs"] == {}
    assert (permissions(tree, "d/e"), tree["d/e"]["owner"]) == (0o700, (3, 0))
    # A link below leads on inside the layer below only; here it becomes a directory.
    assert (tree["l"]["mode"], tree["l"]["owner"]) == (stat.S_IFDIR | 0o1770, (1, 2))
    assert tree["l"]["xattrs"] == {b"user.a": b"1"}


def test_an_implied_directory_stops_at_what_is_no_directory() -> None:
    low = tar(directory("d", mode=0o700), directory("e", mode=0o700))
    middle = tar(file(".wh.d"), file("e"))
    tree = made(file("d/f"), file("e/f"), below=(low, middle))
    assert permissions(tree, "d") == permissions(tree, "e") == 0o755


def test_an_implied_directory_keeps_its_time_until_something_is_put_into_it() -> None:
    low = tar(directory("d", mtime=5), directory("e", mtime=6))
    tree = made(file("d/.wh..wh..opq"), file("e/f"), below=(low,))
    assert (tree["d"]["mtime"], tree["e"]["mtime"]) == (5 * SECOND, 0)
    assert tree["d"]["xattrs"] == {b"trusted.overlay.opaque": b"y"}


@pytest.mark.parametrize(
    ("entries", "depends"),
    [
        ([directory("d"), file("d/f")], False),
        ([file("d/f")], True),
        ([file("d/f"), directory("d")], True),
        ([file(".wh.x")], True),
        ([file(".wh..wh..opq")], True),
        ([maker.entry("x", maker.CHAR)], False),
    ],
)
def test_which_layers_depend_on_their_chain(entries: list[bytes], depends: bool) -> None:
    for below in ([], chain(tar())):
        assert applied(tar(*entries), below).chain_dependent is depends


def test_whiteouts_of_an_upper_layer() -> None:
    tree = upper(file(".wh.gone", mode=0o4755, uid=5, gid=6), file("d/.wh..wh..opq"), file("d/new"))
    gone = tree["gone"]
    assert (gone["mode"], gone["device"], gone["owner"]) == (stat.S_IFCHR, (0, 0), (5, 6))
    assert gone["mtime"] == 0
    assert tree["d"]["xattrs"] == {b"trusted.overlay.opaque": b"y"}
    assert sorted(tree) == ["", "d", "d/new", "gone"]


def test_whiteouts_of_a_first_layer_delete() -> None:
    tree = made(file("a"), file("b/c/d"), file(".wh.a"), file("b/.wh.c"), file(".wh.never"))
    assert sorted(tree) == ["", "b"]


def test_an_opaque_marker_in_a_first_layer_deletes_what_was_never_named() -> None:
    tree = made(
        file("d/implied/lost"),
        directory("d/named"),
        file("d/named/kept"),
        file("d/file"),
        file("d/file too", b"x"),
        file("d/file too", b"y"),
        file("d/.wh..wh..opq"),
        file("d/after/kept"),
    )
    assert sorted(tree) == [
        *("", "d", "d/after", "d/after/kept", "d/file", "d/file too", "d/named", "d/named/kept")
    ]


def test_an_opaque_marker_remembers_names_whose_files_are_gone() -> None:
    tree = made(file("d/x"), file("d/.wh.x"), file("d/x/y"), file("d/z/y"), file("d/.wh..wh..opq"))
    assert sorted(tree) == ["", "d", "d/x", "d/x/y"]


def test_hard_link_entries_act_on_the_inode() -> None:
    tree = made(
        xattrs({"user.a": b"1", "security.capability": maker.CAPABILITY}),
        file("one", mode=0o4755, uid=1, mtime=1),
        xattrs({"user.b": b"2"}),
        hard_link("two", "/./one", mode=0o640, uid=-1, gid=4, mtime=9),
    )
    assert tree["one"] | {"same as": ""} == tree["two"] | {"same as": ""}
    assert (permissions(tree, "one"), tree["one"]["owner"]) == (0o640, (1, 4))
    assert (tree["one"]["mtime"], tree["one"]["links"]) == (9 * SECOND, 2)
    # Changing the owner takes the capability away, and the link's entry brings none.
    assert tree["one"]["xattrs"] == {b"user.a": b"1", b"user.b": b"2"}


def test_hard_links_to_links_and_devices() -> None:
    tree = made(
        symlink("s", "nowhere"),
        hard_link("s2", "s", uid=3),
        maker.entry("c", maker.CHAR, major=1, minor=3),
        hard_link("c2", "c", mode=0o600),
    )
    assert (tree["s2"]["target"], tree["s"]["owner"]) == (b"nowhere", (3, 0))
    assert (tree["c"]["device"], permissions(tree, "c")) == ((1, 3), 0o600)


@pytest.mark.parametrize(
    ("mtime", "kept"),
    [(-1, 0), (0, 0), (2**31, 2**31), (9_223_372_036, 9_223_372_036), (9_223_372_037, 0)],
)
def test_times_are_bounded(mtime: int, kept: int) -> None:
    tree = made(file("f", mtime=mtime), directory("d", mtime=mtime))
    assert tree["f"]["mtime"] == tree["d"]["mtime"] == kept * SECOND


def test_directories_get_their_times_at_the_end() -> None:
    tree = made(
        directory("d", mtime=5),
        file("d/f"),
        directory("l", mtime=6),
        symlink("l", "d/f", mtime=7),
        directory("g", mtime=8),
        file("g", mtime=9),
    )
    # A name that has become something else by then passes its time on to that.
    assert tree["d"]["mtime"] == 5 * SECOND
    assert (tree["l"]["mtime"], tree["d/f"]["mtime"]) == (7 * SECOND, 6 * SECOND)
    assert tree["g"]["mtime"] == 8 * SECOND


def test_paths_stay_inside() -> None:
    tree = made(
        *(file(name) for name in ("../../a", "/b", "c/../../d", "./e//f/.")),
        symlink("up", "../../../etc"),
        file("up/g"),
        directory("./", mode=0o700),
        file("..", b"ignored"),
    )
    assert sorted(tree) == ["", "a", "b", "d", "e", "e/f", "etc", "etc/g", "up"]
    assert permissions(tree, "") == 0o755


def test_symlinked_parents() -> None:
    tree = made(
        directory("real"),
        symlink("a", "/real"),
        symlink("b", "a"),
        file("b/x"),
        symlink("c", "not/there"),
        file("c/y"),
        symlink("real/up", "../real/./deep"),
        file("a/up/z"),
    )
    assert {"real/x", "not/there/y", "real/deep/z"} <= tree.keys()


def test_a_global_header_deletes_the_name_it_has() -> None:
    tree = made(file("pax"), file("kept"), pax({"comment": "x"}, b"g"), pax({"path": "d/x"}, b"g"))
    assert sorted(tree) == ["", "d", "kept"]


@pytest.mark.parametrize(
    ("uid", "kept"), [(2**32 - 1, 0), (-1, 0), (2**32, 0), (2**32 + 5, 5), (-2, 2**32 - 2)]
)
def test_owners_have_32_bits(uid: int, kept: int) -> None:
    tree = made(pax({"uid": str(uid)}), file("f"))
    assert tree["f"]["owner"] == (kept, 0)


@pytest.mark.parametrize(
    ("name", "kept"),
    [("user.x", True), ("security.x", True), ("trusted.x", False), ("system.x", False)]
    + [("nonsense.x", False), ("user", False), ("x", False)],
)
def test_extended_attributes(name: str, kept: bool) -> None:
    tree = made(xattrs({name: b"v"}), file("f"), xattrs({name: b"v"}), symlink("l", "f"))
    assert tree["f"]["xattrs"] == ({name.encode(): b"v"} if kept else {})
    on_link = kept and not name.startswith("user.")
    assert tree["l"]["xattrs"] == ({name.encode(): b"v"} if on_link else {})


def test_a_tree_without_entries() -> None:
    applier = Applier([], 100_000)
    assert list(tarstream.members(stream(b""))) == []
    tree: FileTree = applier.finish()
    assert of_tree(tree).keys() == {""}
