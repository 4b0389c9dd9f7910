"""The canonical stream: it gives the same tree again, and which files go into it at once."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import layers as maker
import odd
import pytest
from layers import directory, file, hard_link, pax, symlink, tar, xattrs
from layertreeparts import chain
from trees import Layer, applied, of_tree, stream

from composeapps import canonical


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
