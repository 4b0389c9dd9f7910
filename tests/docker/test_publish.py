"""The maker's side as a whole: real Compose, real ``mkfs.erofs``, real registry, real TUF."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blobs import Blobs, write_layout
from publishparts import AMD, Maker, images, project, tree_hash
from registryserver import DockerRegistry
from stock import write

from composeapps.artifact import parse
from composeapps.config import RegistrySettings, Settings
from composeapps.images import walk
from composeapps.oci import OCI_INDEX, OCI_MANIFEST, Platform, Reference, digest_of, hex_of
from composeapps.publish.preload import Memory
from composeapps.registry import registry_client
from composeapps.store import Store, verify_layer
from composeapps.transport import Transport
from composeapps.trust import Trust


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """Give a registry with both images under the tag ``1``."""
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as server:
        blobs = Blobs()
        for name, entry in images(blobs).items():
            push_image(server, blobs, name, entry["digest"])
        yield server


def push_image(server: DockerRegistry, blobs: Blobs, name: str, digest: str) -> None:
    """Push an index with its manifests, and all blobs."""
    settings = Settings(registry={server.netloc: RegistrySettings(insecure=True)})
    client = registry_client(server.netloc, settings, Transport(10))
    reference = Reference.parse(f"{server.netloc}/{name}:1")
    untagged = Reference(reference.registry, reference.repository)
    for blob, data in blobs.items():
        with (server.directory / "blob").open("w+b") as file:
            file.write(data)
            file.flush()
            client.push_blob(untagged, blob, len(data), file)
    value = json.loads(blobs[digest])
    for entry in value["manifests"]:
        client.push_manifest(untagged, blobs[entry["digest"]], OCI_MANIFEST)
    client.push_manifest(reference, blobs[digest], OCI_INDEX)


def insecure(directory: Path, server: DockerRegistry) -> tuple[object, ...]:
    """Return the flag for settings that let a registry be asked without TLS."""
    path = directory / "maker.toml"
    path.write_text(f'[source]\nattempts = 1\n[registry."{server.netloc}"]\ninsecure = true\n')
    return ("--config", path)


def test_registry_to_registry_and_a_release_of_it(
    maker: Maker, registry: DockerRegistry, tmp_path: Path
) -> None:
    how = insecure(tmp_path, registry)
    source = project(tmp_path / "web", registry.netloc)
    reference = f"{registry.netloc}/apps/shop:v1"
    first = maker.json("app", source, reference, *how, *maker.cache)
    assert maker.said.err.count("\nsealing ") == 3
    name, _, digest = first["artifact"].partition("@")
    assert name == f"{registry.netloc}/apps/shop"
    again = maker.json("app", source, reference, *how, *maker.cache)
    assert again == first
    assert "sealing" not in maker.said.err and "downloading" not in maker.said.err
    # Without --platform it is all that the images have in common.
    assert list(first["sizes"]) == ["linux/amd64", "linux/arm64"]

    client = registry_client(
        registry.netloc,
        Settings(registry={registry.netloc: RegistrySettings(insecure=True)}),
        Transport(10),
    )
    assert client.resolve_tag(Reference.parse(reference)).digest == digest

    maker.init()
    maker.release(first["artifact"], more=how)
    signed = maker.signed()
    assert signed["apps"] == {"shop": {"artifact": first["artifact"], "sizes": first["sizes"]}}
    size = signed["apps"]["shop"]["sizes"]["linux/amd64"]
    assert 50_000 < size["download"] < 60_000
    assert 50_000 < size["flash"] < 100_000


def test_layout_to_layout_and_a_release_from_it_alone(
    maker: Maker, layout: Path, tmp_path: Path
) -> None:
    source = project(tmp_path / "shop", "registry.test")
    out = ("--images", layout, "--output", maker.site / "oci")
    made = maker.json("app", source, "registry.test/apps/shop", *AMD, *out, *maker.cache)
    maker.init()
    maker.release(f"store={made['artifact']}", more=("--percent", "50", "--settle", "3"))
    signed = maker.signed()
    assert list(signed["apps"]) == ["store"]
    assert (signed["rollout"], signed["gates"]) == ({"percent": 50}, {"settle": 3})

    # Everything that a device needs lies there under its digest, and nothing for arm64.
    blobs = {path.name: path.read_bytes() for path in (maker.site / "oci/blobs/sha256").iterdir()}
    assert all(digest_of(data) == f"sha256:{name}" for name, data in blobs.items())

    def read(reference: Reference, digest: str, limit: int, kind: str) -> bytes:
        return blobs[hex_of(digest)]

    artifact = parse(blobs[hex_of(made["artifact"].partition("@")[2])], "app")
    assert {blob.digest.partition(":")[2] for blob in artifact.blobs} <= blobs.keys()
    pins = blobs[hex_of(artifact.compose[-1].descriptor.digest)].decode()
    for line in pins.splitlines():
        if "image:" in line:
            reference = Reference.parse(json.loads(line.partition(":")[2]))
            image = walk(reference, Platform("linux", "amd64"), read)
            assert {hex_of(layer.descriptor.digest) for layer in image.layers} <= blobs.keys()
            with pytest.raises(KeyError):
                walk(reference, Platform("linux", "arm64"), read)


def test_published_from_a_copied_directory_and_a_tar_of_the_layout(
    maker: Maker, layout: Path, tmp_path: Path
) -> None:
    shutil.make_archive(str(tmp_path / "images"), "tar", layout)
    made = []
    for number, source in enumerate((layout, tmp_path / "images.tar")):
        directory = project(tmp_path / f"copy-{number}", "registry.test")
        out = ("--images", source, "--output", tmp_path / f"oci-{number}")
        made.append(maker.json("app", directory, "registry.test/a", *AMD, *out, *maker.cache))
    assert made[0] == made[1]
    assert tree_hash(tmp_path / "oci-0") == tree_hash(tmp_path / "oci-1")


def test_preload_gives_the_same_bytes_and_all_that_a_device_needs(
    maker: Maker, layout: Path, tmp_path: Path
) -> None:
    source = project(tmp_path / "shop", "registry.test")
    out = ("--images", layout, "--output", maker.site / "oci")
    made = maker.json("app", source, "registry.test/apps/shop", *out, *maker.cache)
    maker.init()
    maker.release(made["artifact"])
    for number, cache in enumerate((maker.cache, maker.cache, ("--cache", tmp_path / "fresh"))):
        store = ("--platform", "linux/arm64", "--output", tmp_path / f"factory-{number}")
        maker.run("preload", maker.site, "stable", *store, *cache)
    factory = tmp_path / "factory-0"
    assert len({tree_hash(tmp_path / f"factory-{number}") for number in range(3)}) == 1
    assert sorted(os.listdir(factory)) == ["blobs", "layers", "release.json", "root.json", "trust"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp-")]

    layers = list(Store(factory).all_layers())
    assert len(layers) == 3  # one is shared
    assert all(verify_layer(layer) for layer in layers)
    root = (factory / "root.json").read_bytes()
    trust = Trust(
        *(tmp_path / "device", root, "https://x.test/m", "https://x.test/t", no_network, Memory()),
        factory=factory / "trust",
    )
    held = trust.load("stable")
    assert held.raw == (factory / "release.json").read_bytes()
    assert Store(factory).blob_path(held.digest).read_bytes() == held.raw
    again = ("--platform", "linux/arm64", "--output", factory, *maker.cache)
    assert "exists" in maker.run("preload", maker.site, "stable", *again, code=2)


def no_network(url: str, limit: int, etag: str) -> Any:
    raise AssertionError(f"asked for {url}")


def test_preload_refuses_what_does_not_chain_to_the_root(
    maker: Maker, layout: Path, tmp_path: Path
) -> None:
    source = project(tmp_path / "shop", "registry.test")
    out = ("--images", layout, "--output", maker.site / "oci")
    made = maker.json("app", source, "registry.test/apps/shop", *AMD, *out, *maker.cache)
    maker.init()
    maker.release(made["artifact"])
    other = Maker(tmp_path / "other", maker._capsys)
    other.init()
    root = ("--root", other.site / "metadata" / "1.root.json")
    store = ("--output", tmp_path / "factory", *AMD, *maker.cache)
    assert "do not chain" in maker.run("preload", maker.site, "stable", *store, *root, code=5)
    wrong = ("--output", tmp_path / "factory", "--platform", "linux/arm64", *maker.cache)
    said = maker.run("preload", maker.site, "stable", *wrong, code=3)
    assert "app shop is published for linux/amd64, not for linux/arm64" in said
    (path,) = (maker.site / "targets/stable").iterdir()
    path.write_bytes(path.read_bytes().replace(b"registry", b"registri"))
    maker.run("preload", maker.site, "stable", *store, code=5)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"cache", "images", "keys", "other", "shop", "site"}


def test_a_damaged_cache_is_mended(maker: Maker, layout: Path, tmp_path: Path) -> None:
    source = project(tmp_path / "shop", "registry.test")
    words = ("app", source, "registry.test/a", *AMD, "--images", layout, *maker.cache)
    first = maker.json(*words, "--output", tmp_path / "oci")
    (store,) = (tmp_path / "cache").iterdir()
    layer = max((store / "layers").iterdir(), key=lambda path: path.stat().st_size)
    good = layer.read_bytes()
    layer.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    assert maker.json(*words, "--output", tmp_path / "oci") == first
    assert "sealing" in maker.said.err
    assert layer.read_bytes() == good


def test_registry_answers_are_told(maker: Maker, registry: DockerRegistry, tmp_path: Path) -> None:
    how = insecure(tmp_path, registry)
    for image in ("nope:1", "web:2"):
        text = f"services: {{x: {{image: '{registry.netloc}/{image}'}}}}"
        source = write(tmp_path / "p", {"compose.yaml": text})
        words = ("app", source, f"{registry.netloc}/a", *AMD, *how, *maker.cache)
        assert "answers 404" in maker.run(*words, code=4)
    maker.init()
    nowhere = f"{registry.netloc}/apps/shop@sha256:{'0' * 64}"
    maker.release(nowhere, more=how, code=4)
    assert maker.json("show", maker.site)["channels"]["stable"]["version"] == 0


def test_release_refuses_what_is_no_app(maker: Maker, layout: Path, tmp_path: Path) -> None:
    maker.init()
    shutil.copytree(layout, maker.site / "oci")
    index = json.loads((layout / "index.json").read_bytes())["manifests"]
    said = maker.release(f"registry.test/web@{index[0]['digest']}", code=3)
    assert "is an index; name the Compose artifact itself by its digest" in said
    blobs = Blobs()
    unpinned = blobs.artifact([blobs.compose_file("services: {x: {image: 'registry.test/web:1'}}")])
    pinned = f"registry.test/web@{index[0]['digest']}"
    text = f"services: {{x: {{image: '{pinned}', volumes: ['./conf:/conf:ro']}}}}"
    bound = blobs.artifact([blobs.compose_file(text)])
    broken = blobs.artifact([blobs.compose_file("services: [")])
    write_layout(maker.site / "oci", blobs, {})
    for entry, sentence in (
        (unpinned, "does not pin image registry.test/web:1: publish it with composeapps-publish"),
        (bound, "service x, mounted at /conf: conf does not exist"),
        (broken, "compose.yaml is not YAML that can be read"),
    ):
        said = maker.release(f"registry.test/app@{entry['digest']}", code=3)
        assert sentence in said
        assert "/tmp/" not in said.replace(str(tmp_path), "")
    assert maker.json("show", maker.site)["channels"]["stable"]["version"] == 0
