"""The maker's side as a whole: real Compose, real ``mkfs.erofs``, real registry, real TUF."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blobs import LINUX, OCI_LAYER, Blobs, member, tar, write_layout
from mkfs import directory_with_mkfs
from registryserver import DockerRegistry
from stock import program, write

from composeapps.artifact import parse
from composeapps.config import RegistrySettings, Settings
from composeapps.images import walk
from composeapps.oci import OCI_INDEX, OCI_MANIFEST, Platform, Reference, digest_of, hex_of
from composeapps.publish import cli
from composeapps.publish.preload import Memory
from composeapps.registry import registry_client
from composeapps.store import Store, verify_layer
from composeapps.transport import Transport
from composeapps.trust import Trust

ARM64 = {"os": "linux", "architecture": "arm64"}
AMD = ("--platform", "linux/amd64")
BASE = tar(member("bin", type=b"5", mode=0o755), member("bin/tool", os.urandom(50_000)))
TOP = {name: tar(member(f"app-{name}", name.encode())) for name in ("web", "db")}


class Maker:
    """A maker's machine: keys, repository, cache, projects, and the command in this process."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.site = directory / "site"
        self.keys = directory / "keys"
        self.cache = ("--cache", directory / "cache")
        self._capsys = capsys

    def run(self, *words: object, code: int = 0) -> str:
        """Run a command; return its result, or what it said where it has to fail."""
        self._capsys.readouterr()
        found = cli.main([str(word) for word in words])
        self.said = self._capsys.readouterr()
        assert found == code, self.said.err
        assert "Traceback" not in self.said.err
        return self.said.out if code == 0 else self.said.err

    def json(self, *words: object) -> Any:
        """Run a command with --json and return what it printed."""
        return json.loads(self.run(*words, "--json"))

    def init(self) -> None:
        """Make the repository with a channel ``stable``."""
        self.run("init", self.site, "--keys", self.keys, "--no-password")

    def release(self, *apps: str, code: int = 0, more: tuple[object, ...] = ()) -> str:
        """Sign a release."""
        sign = ("--keys", self.keys)
        return self.run("release", self.site, "stable", *apps, *sign, *self.cache, *more, code=code)

    def signed(self) -> dict[str, Any]:
        """Return the newest release document."""
        paths = (self.site / "targets" / "stable").glob("*.json")
        documents = [json.loads(path.read_bytes()) for path in paths]
        found: dict[str, Any] = max(documents, key=lambda value: int(value["version"]))
        return found


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the device's own mkfs.erofs and Compose."""
    directory = directory_with_mkfs(tmp_path_factory.mktemp("tools"))
    script = directory / "docker-compose"
    words = " ".join(program("docker-compose", os.environ.get("ENGINE", "")))
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    script.chmod(0o755)
    return directory


@pytest.fixture
def maker(
    tools: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Maker:
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return Maker(tmp_path, capsys)


def images(blobs: Blobs) -> dict[str, dict[str, Any]]:
    """Add two images that share a layer, for two platforms, with attestations."""
    found = {}
    for name, top in TOP.items():
        attestation = blobs.image(
            [b"{}"], {"os": "unknown", "architecture": "unknown"}, layer_type="application/json"
        )
        entries = [blobs.image([BASE, top]), blobs.image([BASE, top], ARM64), attestation]
        found[name] = blobs.index(entries)
    return found


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Return a layout as a builder leaves it, with ``registry.test/web:1`` and ``/db:1``."""
    blobs = Blobs()
    names = {f"registry.test/{name}:1": entry for name, entry in images(blobs).items()}
    return write_layout(tmp_path / "images", blobs, names)


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


def project(directory: Path, registry: str, **more: str) -> Path:
    """Write a project with two services and a file."""
    text = f"""
services:
  web: {{image: "{registry}/web:1", volumes: ["./conf:/conf:ro"], depends_on: [db]}}
  db: {{image: "{registry}/db:1"}}
"""
    return write(directory, {"compose.yaml": text, "conf/a": "a", **more})


def tree_hash(directory: Path) -> str:
    """Return a hash over names, kinds, modes and contents of a tree."""
    hasher = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        mode = path.lstat().st_mode
        hasher.update(f"{path.relative_to(directory)} {mode:o}\n".encode())
        if path.is_file():
            hasher.update(path.read_bytes())
    return hasher.hexdigest()


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


def bundled(maker: Maker, layout: Path, *more: object) -> tuple[Path, str]:
    """Publish an app for two platforms, release it, bundle it for one; return bundle and app."""
    source = project(maker.directory / "shop", "registry.test")
    out = ("--images", layout, "--output", maker.site / "oci")
    made = maker.json("app", source, "registry.test/apps/shop", *out, *maker.cache)
    maker.init()
    maker.release(made["artifact"])
    bundle = maker.directory / "bundle"
    maker.run("bundle", maker.site, "stable", *AMD, "--output", bundle, *maker.cache, *more)
    return bundle, str(made["artifact"])


def test_a_bundle_gives_the_factory_store_that_its_repository_gives(
    maker: Maker, layout: Path, tmp_path: Path
) -> None:
    bundle, app = bundled(maker, layout)
    assert sorted(os.listdir(bundle)) == ["metadata", "oci", "targets"]
    store = ("--output", tmp_path / "one", *AMD, *maker.cache)
    maker.run("preload", maker.site, "stable", *store)
    maker.site.rename(tmp_path / "away")
    # No Compose, no network, ten years later.
    bare = ("--offline", "--compose", "/nonexistent", "--time", "0")
    store = ("--output", tmp_path / "two", *AMD, *maker.cache)
    maker.run("preload", bundle, "stable", *store, *bare)
    assert tree_hash(tmp_path / "one") == tree_hash(tmp_path / "two")
    # Only what one platform needs.
    assert len(list((bundle / "oci/blobs/sha256").iterdir())) < len(
        list((tmp_path / "away/oci/blobs/sha256").iterdir())
    )
    again = ("--output", tmp_path / "three", *AMD, *maker.cache, "--app", f"shop={app}")
    maker.run("bundle", bundle, "stable", *again, "--compose", "/nonexistent")
    assert tree_hash(tmp_path / "three") == tree_hash(bundle)
    assert "exists" in maker.run("bundle", bundle, "stable", *again, code=2)


def test_a_bundle_holds_nothing_else_than_what_was_named(
    maker: Maker, layout: Path, tmp_path: Path
) -> None:
    bundle, app = bundled(maker, layout)
    words = ("bundle", bundle, "stable", "--output", tmp_path / "new", *maker.cache)
    other = app[:-1] + ("0" if app[-1] != "0" else "1")
    assert other in maker.run(*words, *AMD, "--app", f"shop={other}", code=3)
    said = maker.run(*words, *AMD, "--app", f"shop={app}", "--app", f"till={app}", code=3)
    assert "no such app as app till" in said
    digest = f"sha256:{'0' * 64}"
    assert digest in maker.run(*words, *AMD, "--release", digest, code=3)
    (signed,) = (bundle / "targets/stable").iterdir()
    maker.run(*words, *AMD, "--release", f"sha256:{signed.name.split('.')[0]}")
    shutil.rmtree(tmp_path / "new")
    said = maker.run(*words, "--platform", "linux/riscv64", code=3)
    assert "app shop is published for linux/amd64, linux/arm64, not for linux/riscv64" in said
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"bundle", "cache", "images", "keys", "shop", "site"}


def test_damage_in_a_bundle_stops_a_preload_and_is_not_reused(
    maker: Maker, layout: Path, tmp_path: Path
) -> None:
    bundle, _ = bundled(maker, layout)
    largest = max((bundle / "oci/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    good = largest.read_bytes()
    largest.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    store = ("--output", tmp_path / "factory", *AMD, "--cache", tmp_path / "fresh")
    said = maker.run("preload", bundle, "stable", *store, "--offline", code=6)
    assert f"{largest} is damaged" in said
    words = ("--output", tmp_path / "new", *AMD, *maker.cache, "--reuse", tmp_path)
    maker.run("bundle", maker.site, "stable", *words)
    assert (tmp_path / "new/oci/blobs/sha256" / largest.name).read_bytes() == good
    largest.unlink()
    said = maker.run("preload", bundle, "stable", *store, "--offline", code=3)
    assert f"lacks sha256:{largest.name}" in said
    assert not (tmp_path / "factory").exists()


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
