"""Images from OCI layouts by name, and apps into them: what a server hosts is whole and plain."""

from __future__ import annotations

import fcntl
import json
import os
import tarfile
from pathlib import Path
from typing import Any, Literal

import pytest
from blobs import Blobs, member, tar, write_layout

from composeapps.errors import BusyError, ComposeAppsError, ConfigError, IntegrityError
from composeapps.oci import COMPOSE_PROJECT, Descriptor, Platform, Reference, digest_of
from composeapps.publish.artifact import Packed
from composeapps.publish.content import Content, LayoutContent, open_layout
from composeapps.publish.images import Survey, common_platforms, pin, survey
from composeapps.publish.push import Layout

AMD64 = Platform("linux", "amd64")
ARM64 = {"os": "linux", "architecture": "arm64"}


def layout(directory: Path, **names: str) -> tuple[Blobs, dict[str, Any]]:
    """Write a layout with one image for two platforms under a name."""
    blobs = Blobs()
    layer = tar(member("hello", b"hello"))
    top = blobs.index([blobs.image([layer]), blobs.image([layer], ARM64)])
    write_layout(directory, blobs, {names.get("name", "example.com/web:1"): top})
    return blobs, top


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("example.com/web:1", "example.com/web:1"),
        ("docker.io/library/web:1", "web:1"),
        ("docker.io/library/web:latest", "web"),
        ("web:1", "docker.io/library/web:1"),
        ("library/web:1", "web:1"),
        ("1", "example.com/any:1"),
    ],
)
def test_names_as_builders_write_them(written: str, asked: str, tmp_path: Path) -> None:
    _, top = layout(tmp_path, name=written)
    assert LayoutContent(tmp_path).resolve(Reference.parse(asked)) == top["digest"]


def test_docker_save_names_are_found(tmp_path: Path) -> None:
    _, top = layout(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    names = {
        "io.containerd.image.name": "docker.io/me/web:2",
        "org.opencontainers.image.ref.name": "2",
    }
    index["manifests"][0]["annotations"] = names
    (tmp_path / "index.json").write_text(json.dumps(index))
    content = LayoutContent(tmp_path)
    assert content.resolve(Reference.parse("me/web:2")) == top["digest"]


def test_what_is_not_there_is_named_with_what_is(tmp_path: Path) -> None:
    layout(tmp_path)
    content = LayoutContent(tmp_path)
    with pytest.raises(ConfigError, match="has no image example"):
        content.resolve(Reference.parse("example.com/web:2"))
    with pytest.raises(ConfigError, match="is no OCI image layout"):
        LayoutContent(tmp_path / "none")
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(IntegrityError):
        LayoutContent(tmp_path)


def test_two_images_under_one_name(tmp_path: Path) -> None:
    blobs = Blobs()
    names = {"web:1": blobs.image([b"1"]), "docker.io/library/web:1": blobs.image([b"2"])}
    write_layout(tmp_path, blobs, names)
    with pytest.raises(ConfigError, match="has more than one image"):
        LayoutContent(tmp_path).resolve(Reference.parse("web:1"))


def test_a_layout_in_a_tar(tmp_path: Path) -> None:
    _, top = layout(tmp_path / "layout")
    archive = tmp_path / "images.tar"
    modes: tuple[Literal["w", "w:gz"], ...] = ("w", "w:gz")
    for mode in modes:
        with tarfile.open(archive, mode) as output:
            output.add(tmp_path / "layout", ".")
        with open_layout(archive, tmp_path) as content:
            digest = content.resolve(Reference.parse("example.com/web:1"))
            assert digest == top["digest"]
            assert (
                digest_of(content.read(Reference.parse("x"), digest, 10**6, "manifest")) == digest
            )
    assert sorted(os.listdir(tmp_path)) == ["images.tar", "layout"]


def test_a_hostile_tar_writes_nothing_elsewhere(tmp_path: Path) -> None:
    blobs = Blobs()
    write_layout(tmp_path / "layout", blobs, {})
    index = (tmp_path / "layout" / "index.json").read_bytes()
    evil = tar(
        member("index.json", index),
        member("../evil", b"x"),
        member(f"{tmp_path}/evil", b"x"),
        member("blobs/sha256/../../../evil", b"x"),
        member("blobs/sha256/" + "a" * 64, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("blobs/sha256/x", b"x"),
    )
    (tmp_path / "evil.tar").write_bytes(evil)
    with open_layout(tmp_path / "evil.tar", tmp_path) as content:
        with pytest.raises(ConfigError, match="has no image"):
            content.resolve(Reference.parse("web:1"))
        (unpacked,) = (path for path in tmp_path.iterdir() if path.name.startswith("tmp"))
        assert sorted(os.listdir(unpacked)) == ["blobs", "index.json"]
        assert os.listdir(unpacked / "blobs" / "sha256") == []
    assert sorted(os.listdir(tmp_path)) == ["evil.tar", "layout"]


@pytest.mark.parametrize("data", [b"", b"no tar", b"\x1f\x8b\x08broken", bytes(10240)])
def test_what_is_no_tar_of_a_layout(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with (
        pytest.raises(ConfigError, match="OCI image layout"),
        open_layout(tmp_path / "x.tar", tmp_path),
    ):
        pass


def test_missing_and_damaged_blobs(tmp_path: Path) -> None:
    blobs, top = layout(tmp_path)
    content = LayoutContent(tmp_path)
    reference = Reference("example.com", "web", "", top["digest"])
    surveyed = survey([reference.pinned()], [AMD64], content)
    (image,) = surveyed.all()
    layer = image.manifest.layers[0]
    path = tmp_path / "blobs/sha256" / layer.digest.removeprefix("sha256:")
    for damaged in (path.read_bytes()[:-1], path.read_bytes()[:-1] + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match="is damaged"), content.file(reference, layer):
            pass
    path.unlink()
    missing = pytest.raises(
        ConfigError, match=r"lacks sha256:.* of example.com/web@.*: make it again"
    )
    with missing, content.file(reference, layer):
        pass
    config = Descriptor("", image.documents[-1].digest, 5)
    with pytest.raises(IntegrityError, match="larger than 5 bytes"):
        content.read(reference, config.digest, 5, "blob")
    del blobs


def test_pin_resolves_tags_and_keeps_digests(tmp_path: Path) -> None:
    _, top = layout(tmp_path)
    digest = f"sha256:{'b' * 64}"
    said: list[str] = []
    services = {"a": "example.com/web:1", "b": "example.com/web:1", "c": f"x.test/y:2@{digest}"}
    pins = pin(services, LayoutContent(tmp_path), said.append)
    assert pins == {
        "a": f"example.com/web@{top['digest']}",
        "b": f"example.com/web@{top['digest']}",
        "c": f"x.test/y@{digest}",
    }
    assert len(said) == 2
    with pytest.raises(ConfigError, match="not an image reference"):
        pin({"a": "UPPER/Case:x y"}, LayoutContent(tmp_path), said.append)


def test_platforms_in_common(tmp_path: Path) -> None:
    blobs = Blobs()
    both = blobs.index([blobs.image([b"1"]), blobs.image([b"1"], ARM64)])
    one, other = blobs.image([b"2"]), blobs.image([b"3"], ARM64)
    windows = blobs.image([b"4"], {"os": "windows", "architecture": "amd64"})
    write_layout(tmp_path, blobs, {})
    content = LayoutContent(tmp_path)

    def common(*tops: dict[str, Any]) -> list[str]:
        pinned = [f"x.test/y@{top['digest']}" for top in tops]
        return [str(platform) for platform in common_platforms(pinned, content)]

    assert common(both) == ["linux/amd64", "linux/arm64"]
    assert common(both, one) == ["linux/amd64"]
    for tops in ((one, other), (windows,), ()):
        with pytest.raises(ConfigError, match="no Linux platform in common"):
            common(*tops)


def packed(text: str) -> Packed:
    blobs = Blobs()
    descriptor = blobs.artifact([blobs.compose_file(text)])
    manifest = blobs.pop(descriptor["digest"])
    return Packed(manifest, dict(blobs))


def add(
    output: Layout,
    app: Packed,
    reference: str,
    images: Survey | None = None,
    content: Content | None = None,
) -> None:
    unused = LayoutContent.__new__(LayoutContent)
    surveyed = images or Survey({})
    output.add(app, Reference.parse(reference), surveyed, content or unused, lambda _: None)


def test_layout_output_is_whole_and_the_same_every_time(tmp_path: Path) -> None:
    _, top = layout(tmp_path / "in")
    content = LayoutContent(tmp_path / "in")
    pinned = f"example.com/web@{top['digest']}"
    for name in ("1", "2", "2"):
        output = Layout(tmp_path / name)
        images = survey([pinned], [AMD64], content)
        add(output, packed("a"), "example.com/apps/a:1", images, content)
    trees = []
    for name in ("1", "2"):
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        trees.append([(str(p.relative_to(tmp_path / name)), p.read_bytes()) for p in files])
        assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o644"}
    assert trees[0] == trees[1]
    for name, data in trees[0]:
        if name.startswith("blobs/"):
            assert digest_of(data) == f"sha256:{name.rpartition('/')[2]}"
    # index, manifest, config and layer for amd64; artifact, Compose file and empty config
    assert len(trees[0]) == 4 + 3 + 2
    index = json.loads((tmp_path / "1" / "index.json").read_text())
    names = [
        item["annotations"]["org.opencontainers.image.ref.name"] for item in index["manifests"]
    ]
    assert names == ["example.com/apps/a:1", pinned]
    assert index["manifests"][0]["artifactType"] == COMPOSE_PROJECT


def test_a_tag_moves_and_digests_stay(tmp_path: Path) -> None:
    output = Layout(tmp_path / "oci")
    first, second = packed("a"), packed("b")
    add(output, first, "x.test/a:1")
    add(output, second, "x.test/a:1")
    add(output, second, "x.test/b")
    index = json.loads((tmp_path / "oci" / "index.json").read_text())
    found = [
        (item["digest"], item["annotations"].get("org.opencontainers.image.ref.name"))
        for item in index["manifests"]
    ]
    assert found == [
        (first.digest, None),
        (second.digest, "x.test/a:1"),
        (second.digest, f"x.test/b@{second.digest}"),
    ]
    assert LayoutContent(tmp_path / "oci").resolve(Reference.parse("x.test/a:1")) == second.digest


def test_output_never_goes_into_something_else(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ConfigError, match="is not empty and no OCI image layout"):
        Layout(tmp_path)
    (tmp_path / "precious").unlink()
    (tmp_path / "index.json").write_text('{"schemaVersion": 2, "manifests": [5]}')
    with pytest.raises(ComposeAppsError):
        add(Layout(tmp_path), packed("a"), "x.test/a")


def test_one_writer_at_a_time_and_leftovers_go(tmp_path: Path) -> None:
    add(Layout(tmp_path), packed("a"), "x.test/a")
    left = tmp_path / "blobs/sha256/.tmp-left"
    left.write_text("half")
    holder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(BusyError, match="another composeapps-publish works on"):
        add(Layout(tmp_path), packed("b"), "x.test/b")
    os.close(holder)
    add(Layout(tmp_path), packed("b"), "x.test/b")
    assert not left.exists()
