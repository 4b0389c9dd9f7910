"""What entries make of a tree: containerd's rules, one by one, and the bounds on hostile layers."""

from __future__ import annotations

import io
import stat
import tarfile
from typing import Any

import layers as maker
import odd
import pytest
from layers import directory, file, hard_link, pax, symlink, tar, xattrs
from trees import MEMORY, Layer, applied, of_tree, stream

from composeapps import canonical, tarstream
from composeapps.errors import SealError
from composeapps.filetree import FileTree
from composeapps.layertree import Applier
from composeapps.rootpath import EFFORT_LIMIT, Effort

SECOND = 1_000_000_000


def made(*entries: bytes, below: tuple[bytes, ...] = ()) -> dict[str, dict[str, Any]]:
    """Return the tree of a layer on top of others, the first of them at the bottom."""
    return of_tree(applied(tar(*entries), chain(*below)).tree)


def upper(*entries: bytes) -> dict[str, dict[str, Any]]:
    """Return the tree of a layer that is not the first of its chain."""
    return made(*entries, below=(tar(),))


def chain(*layers: bytes) -> list[Layer]:
    """Return layers as those below another one, topmost first."""
    found: list[Layer] = []
    for layer in layers:
        found.insert(0, Layer(applied(layer, found).tree))
    return found


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


@pytest.mark.parametrize("name", [*odd.refused(), *odd.stricter()])
def test_refusals(name: str) -> None:
    layer = {**odd.refused(), **odd.stricter()}[name]
    with pytest.raises(SealError) as caught:
        applied(layer, chain(odd.base(b"")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", odd.refused_first())
def test_refusals_of_chains(name: str) -> None:
    layers = odd.refused_first()[name]
    below = chain(*layers[:-1])
    with pytest.raises(SealError, match=r"^entry '"):
        applied(layers[-1], below)


def test_a_refusal_names_the_entry() -> None:
    with pytest.raises(SealError, match=r"^entry 'd/new\\x0aline': its hard-link target 'nothing'"):
        made(hard_link("d/new\nline", "nothing"))


# One of the whiteouts makes a name that would be a whiteout if it were read again.
@pytest.mark.parametrize("name", [name for name in odd.IMAGES if name != "whiteouts"])
def test_the_canonical_stream_says_the_same(name: str) -> None:
    """Read back by the same rules, and by Python's own reader, it gives the same tree."""
    below: list[Layer] = [] if name.startswith("first") else chain(odd.base(b""))
    for layer in odd.IMAGES[name][:3]:
        tree = applied(layer, below).tree
        written = io.BytesIO()
        assert canonical.write_files(tree, stream(layer), written.write)
        canonical.write_rest(tree, written.write)
        again = applied(written.getvalue(), chain(tar()))
        expected = of_tree(tree)
        assert _without_trusted(of_tree(again.tree)) == _without_trusted(expected)
        with tarfile.open(fileobj=io.BytesIO(written.getvalue())) as archive:
            names = [member.name for member in archive]
        assert len(names) == len(expected)
        below.insert(0, Layer(tree))


def _without_trusted(tree: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Leave out what an applier never sets, and what it never does to the root."""
    for value in tree.values():
        value["xattrs"] = {
            key: data for key, data in value["xattrs"].items() if not key.startswith(b"trusted.")
        }
    return tree


@pytest.mark.parametrize(
    ("entries", "rewrites"),
    [
        ([directory("d"), file("d/f"), file("g", b""), symlink("l", "f")], False),
        ([file("f"), hard_link("g", "f")], False),
        ([xattrs({"user.a": b"1"}), file("f"), hard_link("g", "f")], False),
        ([file("f"), hard_link("g", "f", mode=0o600)], True),
        ([file("f"), hard_link("g", "f", mtime=5)], True),
        ([file("f"), hard_link("g", "f", uid=5)], True),
        ([file("f"), xattrs({"user.a": b"1"}), hard_link("g", "f")], True),
        # Its owner is set again, which takes the capability away.
        ([xattrs({"security.capability": maker.CAPABILITY}), file("f"), hard_link("g", "f")], True),
        ([file("f"), file("f")], True),
        ([file("f"), directory("f")], True),
        ([file("f"), pax({"path": "f", "a": "b"}, b"g")], True),
        ([file("f"), file(".wh.f")], True),
        ([directory("d", mtime=5), symlink("d", "f"), file("f")], True),
        ([directory("d"), file(".wh.x"), directory("d", mode=0o700)], False),
    ],
)
def test_which_files_can_be_written_at_once(entries: list[bytes], rewrites: bool) -> None:
    assert applied(tar(*entries)).rewrites is rewrites


def test_contents_of_sparse_files() -> None:
    layer = tar(maker.sparse_1("s", 3000, [(100, b"abc"), (2000, b"d" * 600)]))
    written = io.BytesIO()
    tree = applied(layer).tree
    assert canonical.write_files(tree, stream(layer), written.write)
    canonical.write_rest(tree, written.write)
    with tarfile.open(fileobj=io.BytesIO(written.getvalue())) as archive:
        member = archive.extractfile("s")
        assert member is not None
        data = member.read()
    assert data == bytes(100) + b"abc" + bytes(1897) + b"d" * 600 + bytes(400)


def test_records_have_the_length_they_say() -> None:
    for length in (0, 1, 80, 85, 86, 87, 88, 89, 90, 983, 984, 985, 986, 990, 9000):
        record = canonical.record(b"path", b"x" * length)
        assert int(record.split(b" ")[0]) == len(record)


def test_memory_is_bounded() -> None:
    """More entries than fit are refused, whatever they are made of."""
    many = tar(*(file(f"f{number}", b"") for number in range(2000)))
    attributes = tar(*(xattrs({"user.x": b"x" * 5000}) + file(f"f{n}", b"") for n in range(100)))
    targets = tar(*(pax({"linkpath": "x" * 4000}) + symlink(f"f{n}", "x") for n in range(100)))
    again = tar(*(directory("d" * 200) for _ in range(2000)))
    for layer in (many, attributes, targets, again):
        with pytest.raises(SealError, match="bound on memory"):
            applied(layer, chain(tar()), memory=200_000)


def test_deep_paths_through_links_cost_what_they_are_long() -> None:
    """As deep as a path may be, through a link, again and again: no walk begins at the root."""
    depth, times = 1900, 20
    deep = "/".join(["a"] * depth)
    entries = [pax({"path": f"l/{deep}/../{n}/f"}) + file("x", b"") for n in range(times)]
    applier = applied(tar(symlink("l", "."), pax({"path": deep}) + directory("x"), *entries))
    assert EFFORT_LIMIT - applier._effort.left < 5 * depth * times


def test_endless_resolving_is_refused() -> None:
    """Links that double at each step do not keep an agent busy."""
    links = [symlink(f"{n}", f"{n + 1}/../{n + 1}") for n in range(60)]
    names = [f"{a}/{b}/{c}/x" for a in range(30) for b in range(10) for c in range(10)]
    applier = Applier(chain(tar()), MEMORY)
    applier._effort = Effort(100_000)
    with pytest.raises(SealError, match="too many"):
        for member in tarstream.members(stream(tar(*links, *map(file, names)))):
            applier.apply(member)


def test_a_tree_without_entries() -> None:
    applier = Applier([], 100_000)
    assert list(tarstream.members(stream(b""))) == []
    tree: FileTree = applier.finish()
    assert of_tree(tree).keys() == {""}
