"""Images as makers have them: what is refused before anything is written, what a chain decides."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from blobs import LINUX, OCI_LAYER, Blobs, member, tar, write_layout
from publishparts import BASE, Maker
from stock import write

from composeapps.oci import OCI_MANIFEST, digest_of
from composeapps.store import Store


def publish_image(maker: Maker, tmp_path: Path, build: Any, *platforms: str, code: int) -> str:
    """Try to publish a one-service project whose image ``build`` adds to a layout."""
    blobs = Blobs()
    entry = build(blobs)
    layout = write_layout(tmp_path / "images", blobs, {"registry.test/x:1": entry})
    source = write(tmp_path / "p", {"compose.yaml": "services: {x: {image: 'registry.test/x:1'}}"})
    out = ("--images", layout, "--output", tmp_path / "oci", *maker.cache)
    wanted = [word for name in platforms or ("linux/amd64",) for word in ("--platform", name)]
    said = maker.run("app", source, "registry.test/app", *out, *wanted, code=code)
    if code:
        assert not (tmp_path / "oci").exists(), "nothing is written before all is judged"
    return said


def test_a_platform_that_is_missing(maker: Maker, tmp_path: Path) -> None:
    said = publish_image(
        maker, tmp_path, lambda blobs: blobs.image([BASE]), "linux/amd64,linux/arm64", code=3
    )
    assert "image registry.test/x@sha256:" in said
    assert "has nothing for linux/arm64; it has linux/amd64" in said


def test_a_layer_that_cannot_be_sealed(maker: Maker, tmp_path: Path) -> None:
    broken = bytearray(tar(member("good", b"x"), member("bad", b"y")))
    broken[1024 + 148] ^= 1  # the second header's checksum
    said = publish_image(maker, tmp_path, lambda blobs: blobs.image([BASE, bytes(broken)]), code=11)
    assert "image registry.test/x@sha256:" in said
    assert f"for linux/amd64: layer {digest_of(bytes(broken))}: " in said
    assert list((tmp_path / "cache").glob("*/tmp*")) == []


def test_a_diff_id_that_lies(maker: Maker, tmp_path: Path) -> None:
    def build(blobs: Blobs) -> dict[str, Any]:
        diff_ids = [digest_of(b"something else")]
        config = {**LINUX, "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        described = blobs.put_json(config, "application/vnd.oci.image.config.v1+json")
        return image_with_config(blobs, described)

    assert "its bytes are those of" in publish_image(maker, tmp_path, build, code=6)


def image_with_config(blobs: Blobs, described: dict[str, Any]) -> dict[str, Any]:
    """Add an image of the base layer with another config."""
    layer = blobs.put(gzip.compress(BASE, mtime=0), OCI_LAYER)
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described}
    return blobs.put_json({**manifest, "layers": [layer]}, OCI_MANIFEST)


def test_foreign_layers(maker: Maker, tmp_path: Path) -> None:
    kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    said = publish_image(
        maker, tmp_path, lambda blobs: blobs.image([BASE], layer_type=kind), code=3
    )
    assert "rootfs.foreign" in said


def test_a_chain_dependent_layer_is_sealed_for_its_chain(maker: Maker, tmp_path: Path) -> None:
    implied = tar(member("bin/other", b"x"))  # its directory is implied, and lies below
    made = publish_image(maker, tmp_path, lambda blobs: blobs.image([BASE, implied]), code=0)
    assert "registry.test/app@sha256:" in made
    (store,) = (tmp_path / "cache").iterdir()
    chains = [layer.chain_id for layer in Store(store).all_layers()]
    assert sorted(map(bool, chains)) == [False, True]
