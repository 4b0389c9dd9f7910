"""The pure parts of telling the engine: what stands on what, links, and the archive it loads."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from composeapps.engine import load_archive
from composeapps.install import above, link_is_right
from composeapps.oci import OCI_INDEX, Descriptor, digest_of, hex_of
from composeapps.snapshots import Snapshot


def known(**parents: str) -> dict[str, Snapshot]:
    return {key: Snapshot(parent, committed=True) for key, parent in parents.items()}


def test_all_that_stands_on_a_chain_directly_or_not() -> None:
    tree = known(a="", b="a", c="b", d="b", container="c", other="", beside="other")
    assert set(above("a", tree)) == {"b", "c", "d", "container"}
    assert set(above("b", tree)) == {"c", "d", "container"}
    assert above("container", tree) == []
    assert above("unknown", tree) == []


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(0, 30))
def test_parents_come_before_children_and_nothing_twice(parents: list[int], root: int) -> None:
    tree = {
        str(number): Snapshot(str(parent) if parent < number else "", committed=True)
        for number, parent in enumerate(parents)
    }
    found = above(str(root), tree)
    assert len(found) == len(set(found))
    for key in found:
        parent = tree[key].parent
        assert parent == str(root) or found.index(parent) < found.index(key)
    reached = {str(root), *found}
    assert all(key in reached for key, one in tree.items() if one.parent in reached)


def test_only_the_link_itself_is_right(tmp_path: Path) -> None:
    target = tmp_path / "layer"
    target.mkdir()
    for name in ("missing", "directory", "file", "wrong", "relative", "indirect", "right"):
        path = tmp_path / name
        if name == "directory":
            path.mkdir()
        elif name == "file":
            path.write_text("")
        elif name != "missing":
            links = {"wrong": tmp_path, "relative": Path("layer"), "indirect": tmp_path / "right"}
            path.symlink_to(links.get(name, target))
        assert link_is_right(path, target) == (name == "right"), name
    target.rmdir()
    assert link_is_right(tmp_path / "right", target), "its layer may be mounted later"


def test_the_archive_is_an_oci_layout_without_layers() -> None:
    documents = {digest_of(data): data for data in (b"index", b"manifest", b"config")}
    top = Descriptor(OCI_INDEX, digest_of(b"index"), 5, {"kept": "yes"})
    name = f"r.test/web@{digest_of(b'index')}"
    data = load_archive(name, top, documents)
    with tarfile.open(fileobj=data) as archive:
        members = {member.name: member for member in archive}
        found = {path: archive.extractfile(member) for path, member in members.items()}
        contents = {path: file.read() for path, file in found.items() if file is not None}
    assert list(members)[:2] == ["oci-layout", "index.json"]
    assert json.loads(contents["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    blobs = {path for path in contents if path.startswith("blobs/")}
    assert blobs == {f"blobs/sha256/{hex_of(digest)}" for digest in documents}
    for digest, text in documents.items():
        assert contents[f"blobs/sha256/{hex_of(digest)}"] == text
    (entry,) = json.loads(contents["index.json"])["manifests"]
    assert entry["annotations"] == {"io.containerd.image.name": name}
    assert (entry["mediaType"], entry["digest"], entry["size"]) == (OCI_INDEX, top.digest, 5)


def test_the_same_image_gives_the_same_archive() -> None:
    documents = {digest_of(data): data for data in (b"index", b"config")}
    top = Descriptor(OCI_INDEX, digest_of(b"index"), 5)
    first = load_archive("r.test/web", top, documents).read()
    assert load_archive("r.test/web", top, documents).read() == first
