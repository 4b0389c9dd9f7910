"""The demo's image layout: real, reproducible, and as varied as images in the field."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from demo import debian, images, recipes
from demo.layers import directory, file, link, pack, tar_bytes

#: Bytes; the layout is copied and served by many tests.
SIZE_LIMIT = 150 * 1024 * 1024


@pytest.fixture(scope="module")
def index(demo_layout: Path) -> dict[str, Any]:
    """The images' descriptors by name without registry."""
    document = json.loads((demo_layout / "index.json").read_text())
    return {
        entry["annotations"]["io.containerd.image.name"].removeprefix(f"{recipes.REGISTRY}/"): entry
        for entry in document["manifests"]
    }


def blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    """Return a blob whose digest and size were compared with its descriptor."""
    data = layout.joinpath("blobs", *descriptor["digest"].split(":")).read_bytes()
    assert descriptor["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert descriptor["size"] == len(data)
    return data


def manifests(layout: Path, descriptor: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Walk an image's manifests, an index's attestation included."""
    document = json.loads(blob(layout, descriptor))
    if "manifests" not in document:
        yield document
    for entry in document.get("manifests", []):
        yield from manifests(layout, entry)


def layer_digests(layout: Path, descriptor: dict[str, Any]) -> list[str]:
    return [layer["digest"] for layer in next(manifests(layout, descriptor))["layers"]]


def unpacked(media_type: str, data: bytes) -> bytes:
    if media_type.endswith("gzip"):
        return gzip.decompress(data)
    if media_type.endswith("zstd"):
        plain: bytes = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        return plain
    return data


def test_all_digests_sizes_and_diff_ids_hold(demo_layout: Path, index: dict[str, Any]) -> None:
    seen: set[str] = set()
    for entry in index.values():
        for manifest in manifests(demo_layout, entry):
            config = json.loads(blob(demo_layout, manifest["config"]))
            tars = [
                unpacked(layer["mediaType"], blob(demo_layout, layer))
                for layer in manifest["layers"]
            ]
            diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
            assert config["rootfs"]["diff_ids"] == diff_ids
            seen |= {entry["mediaType"], manifest["mediaType"]}
            seen |= {layer["mediaType"] for layer in manifest["layers"]}
    assert {
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.in-toto+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.manifest.v1+json",
    } <= seen


def test_updates_share_layers(demo_layout: Path, index: dict[str, Any]) -> None:
    for name, versions in (("web", (1, 2, 3, 4)), ("telemetry", (1, 2))):
        chains = [layer_digests(demo_layout, index[f"{name}:{version}"]) for version in versions]
        assert len({tuple(chain[:2]) for chain in chains}) == 1
        assert chains[0][2] != chains[1][2]
        assert len({chain[3] for chain in chains}) == len(versions)
    bases = {layer_digests(demo_layout, entry)[0] for entry in index.values()}
    # The store's manifest says it in Docker's media types; the bytes are the same.
    assert len(bases) == 1


def test_layout_is_small(demo_layout: Path) -> None:
    blobs = list((demo_layout / "blobs" / "sha256").iterdir())
    assert sum(path.stat().st_size for path in blobs) < SIZE_LIMIT


def test_same_packages_and_sources_give_the_same_bytes(demo_layout: Path, tmp_path: Path) -> None:
    names = {name for recipe in recipes.LAYERS.values() for name in recipe.packages}
    architecture = debian.host_architecture()
    images.build(tmp_path / "again", debian.pool(names, architecture), architecture)
    assert images.references(tmp_path / "again") == images.references(demo_layout)


def test_layer_bytes_depend_on_content_only() -> None:
    tree = {"b/file": file(b"1"), "a": directory(0o1777, 5), "c": link("a")}
    turned = dict(reversed(tree.items()))
    assert pack(tree) == pack(turned)
    with tarfile.open(fileobj=io.BytesIO(tar_bytes(turned))) as archive:
        assert archive.getnames() == ["a", "b/file", "c"]
    assert pack({**tree, "b/file": file(b"2")}).diff_id != pack(tree).diff_id


def test_every_applet_exists() -> None:
    names = {name for recipe in recipes.LAYERS.values() for name in recipe.packages}
    root = debian.pool(names, debian.host_architecture()).root
    listed = subprocess.check_output(["chroot", root, "/usr/bin/busybox", "--list"], text=True)
    assert set(recipes.APPLETS) <= set(listed.split())
