"""composeapps_preload.bbclass: its tasks run by bitbake's library, with real servers on loopback.

Real are the class, ``composeapps-publish``, ``mkfs.erofs``, a docker-registry with the images and a
web server with the signed metadata. A fake is what the tasks hang between (``fake-core``): there is
no sstate and no pseudo.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakebuild import ROOT, Done, FakeBuild
from mkfs import directory_with_mkfs
from registryserver import DockerRegistry
from servers import StaticServer
from world import REGISTRY, World

from composeapps.config import RegistrySettings, Settings
from composeapps.oci import OCI_MANIFEST, Reference, digest_of, hex_of
from composeapps.registry import registry_client
from composeapps.transport import Transport

IMAGE = "composeapps-image"
FETCH, SEAL, ROOTFS = "do_composeapps_fetch", "do_composeapps_seal", "do_rootfs"
PINS = "# Written by a test.\nservices:\n  main:\n    image: {image}\n"
COMPOSE = "services:\n  main:\n    image: {image}\n    network_mode: none\n"


@dataclass
class Maker:
    """A maker's site behind a web server, its images in a registry."""

    world: World
    registry: DockerRegistry
    web: StaticServer
    tools: Path

    def app(self, seed: int, name: str = "ticker") -> str:
        """Publish an app with an image of its own; return its pinned reference."""
        world = self.world
        layers = [world_layer(seed), world_layer(1000)]
        image = world.image(name, layers, {})
        own = world.app(
            COMPOSE.format(image=image), {"image-digests.yaml": PINS.format(image=image)}
        )
        for reference in (image, own):
            self._push(Reference.parse(reference))
        return own

    def _push(self, reference: Reference) -> None:
        settings = Settings(registry={self.registry.netloc: RegistrySettings(insecure=True)})
        client = registry_client(self.registry.netloc, settings, Transport(10))
        there = Reference.parse(f"{self.registry.netloc}/{reference.repository}")
        manifest = (self.world.blobs / hex_of(reference.digest)).read_bytes()
        value = json.loads(manifest)
        for item in (value["config"], *value["layers"]):
            path = self.world.blobs / hex_of(item["digest"])
            with path.open("rb") as file:
                client.push_blob(there, item["digest"], path.stat().st_size, file)
        client.push_manifest(there, manifest, OCI_MANIFEST)

    def values(self, apps: str, **more: str) -> dict[str, str]:
        """Return a product's settings."""
        config = self.tools / "registries.toml"
        config.write_text(f'[registry."{REGISTRY}"]\nmirrors = ["{self.registry.url}"]\n')
        return {
            "COMPOSEAPPS_PRELOAD": apps,
            "COMPOSEAPPS_ROOT": str(self.world.site / "metadata" / "1.root.json"),
            "COMPOSEAPPS_URL": self.web.url,
            "COMPOSEAPPS_CONFIG": str(config),
            "COMPOSEAPPS_PUBLISH": str(self.tools / "composeapps-publish"),
            **more,
        }


def world_layer(seed: int) -> bytes:
    """Return a layer with a file that is large enough to be worth compressing."""
    from world import noise_layer

    return noise_layer(seed, 100_000)


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maker]:
    directory = tmp_path_factory.mktemp("maker")
    tools = directory_with_mkfs(tmp_path_factory.mktemp("tools"))
    script = tools / "composeapps-publish"
    program = f"{sys.executable} -m composeapps.publish.cli"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT / "agent"} exec {program} "$@"\n')
    script.chmod(0o755)
    world = World(directory)
    # The registry has all content: the web server's own layout is not needed, and not there.
    away = directory / "away"
    (directory / "site" / "oci").rename(away)
    world.blobs = away / "blobs" / "sha256"
    with (
        DockerRegistry(directory / "registry") as registry,
        StaticServer(directory / "site") as web,
    ):
        yield Maker(world, registry, web, tools)


@pytest.fixture
def build(maker: Maker, tmp_path: Path) -> FakeBuild:
    return FakeBuild(tmp_path / "build", path=f"{maker.tools}:{os.environ['PATH']}")


def factory(build: FakeBuild) -> Path:
    """Return where the root file system has the factory store."""
    (found,) = build.directory.glob("tmp/work/*/rootfs/usr/share/composeapps/factory")
    return found


def tree_hash(directory: Path) -> str:
    """Return a digest of names, modes and content."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        digest.update(f"{path.relative_to(directory)} {path.stat().st_mode:o}\n".encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def make(build: FakeBuild, values: dict[str, str], *tasks: str) -> Done:
    """Run tasks of the image, all of them by default."""
    sealed = {"COMPOSEAPPS_FACTORY": "${WORKDIR}/composeapps-factory"}
    build.configure({**values, **sealed})
    return build.run("run", IMAGE, *(tasks or (FETCH, SEAL, ROOTFS)))


def failed(done: Done, sentence: str) -> None:
    """Check that bitbake stopped with one error that is one sentence."""
    assert done.code != 0
    errors = [line for line in done.errors if "Build of" not in line]
    assert len(errors) == 1, done.said
    assert sentence in errors[0], errors
    assert "Traceback" not in done.said


def test_the_same_apps_give_the_same_bytes_and_nothing_is_fetched_twice(
    maker: Maker, build: FakeBuild, tmp_path: Path
) -> None:
    app = maker.app(1)
    maker.world.release({"ticker": app})
    values = maker.values(f"ticker={app}")
    done = make(build, values)
    assert (done.code, done.errors) == (0, []), done.said
    store = factory(build)
    assert {path.name for path in store.iterdir()} == {
        *("blobs", "layers", "release.json", "root.json", "trust")
    }
    assert len(list((store / "layers").iterdir())) == 2
    first = tree_hash(store)

    asked = len(maker.web.requests)
    (build.directory / "tmp").rename(build.directory / "old")
    assert make(build, {**values, "BB_NO_NETWORK": "1"}).code == 0
    assert len(maker.web.requests) == asked
    assert tree_hash(factory(build)) == first

    other = FakeBuild(tmp_path / "elsewhere", path=f"{maker.tools}:{os.environ['PATH']}")
    mirror = {"COMPOSEAPPS_MIRRORS": str(build.directory / "downloads/composeapps")}
    assert make(other, {**values, **mirror, "BB_NO_NETWORK": "1"}).code == 0
    assert tree_hash(factory(other)) == first
    assert len(maker.web.requests) == asked


def test_a_release_by_its_digest_and_layers_that_are_not_downloaded_again(
    maker: Maker, build: FakeBuild
) -> None:
    old = maker.app(2)
    maker.world.release({"ticker": old})
    assert make(build, maker.values(f"ticker={old}"), FETCH).code == 0
    new = maker.app(3)
    version = maker.world.release({"ticker": new})
    document = max(
        (maker.world.site / "targets/stable").iterdir(), key=lambda path: path.stat().st_mtime_ns
    )
    digest = digest_of(document.read_bytes())
    assert json.loads(document.read_bytes())["version"] == version
    done = make(build, maker.values(f"stable@{digest}"), FETCH)
    assert done.code == 0, done.said
    bundles = sorted((build.directory / "downloads/composeapps").iterdir())
    assert len(bundles) == 2
    failed(
        make(build, maker.values(f"ticker={maker.app(4)}"), FETCH),
        "name the apps that were released",
    )


def test_signatures_change_with_the_apps_and_not_with_where_they_come_from(
    maker: Maker, build: FakeBuild, tmp_path: Path
) -> None:
    app = f"registry.test/apps@sha256:{'a' * 64}"
    tasks = (FETCH, SEAL, ROOTFS)

    def hashes(values: dict[str, str]) -> dict[str, str]:
        build.configure(values)
        done = build.run("hash", IMAGE, *tasks)
        assert done.code == 0, done.said
        found: dict[str, str] = done.value
        return found

    values = maker.values(f"ticker={app}")
    first = hashes(values)
    copy = tmp_path / "other.json"
    shutil.copy(values["COMPOSEAPPS_ROOT"], copy)
    for same in (
        {"COMPOSEAPPS_URL": "https://other.example/"},
        {"COMPOSEAPPS_MIRRORS": "/some/where"},
        {"COMPOSEAPPS_CONFIG": ""},
        {"COMPOSEAPPS_ROOT": str(copy)},
        {"DL_DIR": "/other/downloads"},
        {"BB_NO_NETWORK": "1"},
    ):
        assert hashes({**values, **same}) == first, same
    copy.write_bytes(copy.read_bytes() + b"\n")
    for other in (
        {"COMPOSEAPPS_PRELOAD": f"ticker={app[:-1]}b"},
        {"COMPOSEAPPS_PRELOAD": f"clock={app}"},
        {"COMPOSEAPPS_PRELOAD": f"stable@sha256:{'a' * 64}"},
        {"TARGET_ARCH": "aarch64"},
        {"COMPOSEAPPS_ROOT": str(copy)},
    ):
        found = hashes({**values, **other})
        assert all(found[task] != first[task] for task in (FETCH, SEAL)), other


@pytest.mark.parametrize(
    ("preload", "sentence"),
    [
        ("ticker=registry.test/apps:1", "has no digest"),
        ("stable", "has no digest"),
        (f"a=r.test/a@sha256:{'a' * 64} a=r.test/b@sha256:{'b' * 64}", "are called a"),
        (f"stable@sha256:{'a' * 64} edge@sha256:{'b' * 64}", "names two releases"),
        (f"stable@sha256:{'a' * 64} a=r.test/a@sha256:{'b' * 64}", "a release and apps"),
    ],
)
def test_what_cannot_be_meant_is_said_when_recipes_are_parsed(
    maker: Maker, build: FakeBuild, preload: str, sentence: str
) -> None:
    done = make(build, maker.values(preload))
    assert done.code == 3
    assert sentence in done.value["skipped"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"COMPOSEAPPS_ROOT": "/nonexistent/root.json"}, "/nonexistent/root.json is none"),
        ({"COMPOSEAPPS_ROOT": ""}, "and nothing is none"),
        ({"COMPOSEAPPS_URL": ""}, "set COMPOSEAPPS_URL"),
        ({"TARGET_ARCH": "mips"}, "no OCI platform is known for mips"),
    ],
)
def test_settings_that_miss_something(
    maker: Maker, build: FakeBuild, change: dict[str, str], sentence: str
) -> None:
    app = f"ticker=registry.test/apps@sha256:{'a' * 64}"
    assert sentence in make(build, maker.values(app, **change)).value["skipped"]


def test_nothing_waits_for_a_network(maker: Maker, build: FakeBuild) -> None:
    waits = "etc/systemd/system/network-online.target.wants/systemd-networkd-wait-online.service"
    (build.directory / "classes" / "waits.bbclass").write_text(
        'ROOTFS_POSTPROCESS_COMMAND:prepend = "waits "\n'
        f"waits () {{\n    install -D /dev/null ${{IMAGE_ROOTFS}}/{waits}\n}}\n"
    )
    assert make(build, maker.values("", INHERIT="waits"), ROOTFS).code == 0
    (root,) = build.directory.glob("tmp/work/*/rootfs")
    assert (root / waits).parent.is_dir() and not (root / waits).exists()


def test_an_image_without_apps_has_no_store(maker: Maker, build: FakeBuild) -> None:
    done = make(build, maker.values("", COMPOSEAPPS_URL=""))
    assert done.code == 0, done.said
    assert not list(build.directory.glob("tmp/work/*/rootfs/usr"))


def test_what_cannot_be_had_or_trusted_stops_the_build(
    maker: Maker, build: FakeBuild, tmp_path: Path
) -> None:
    app = maker.app(5)
    maker.world.release({"ticker": app})
    values = maker.values(f"ticker={app}")
    failed(make(build, {**values, "BB_NO_NETWORK": "1"}, FETCH), "BB_NO_NETWORK forbids to fetch")

    other = World(tmp_path / "other")
    root = {"COMPOSEAPPS_ROOT": str(other.site / "metadata/1.root.json")}
    failed(make(build, {**values, **root}, FETCH), "do not chain")

    failed(make(build, {**values, "TARGET_ARCH": "aarch64"}, FETCH), "has nothing for linux/arm64")

    manifest = json.loads((maker.world.blobs / hex_of(Reference.parse(app).digest)).read_bytes())
    (image,) = {
        line.split()[1]
        for layer in manifest["layers"]
        for line in (maker.world.blobs / hex_of(layer["digest"])).read_text().splitlines()
        if "image:" in line
    }
    stored = maker.registry.directory / "data"
    lost = hex_of(Reference.parse(image).digest)
    for path in stored.rglob(f"*{lost}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    failed(make(build, values, FETCH), "cannot be had")
    assert not list((build.directory / "downloads/composeapps").iterdir())


def test_damage_in_the_downloads_stops_the_build(maker: Maker, build: FakeBuild) -> None:
    app = maker.app(6)
    maker.world.release({"ticker": app})
    values = maker.values(f"ticker={app}")
    assert make(build, values, FETCH).code == 0
    blobs = build.directory.glob("downloads/composeapps/*/oci/blobs/sha256/*")
    largest = max(blobs, key=lambda path: path.stat().st_size)
    good = largest.read_bytes()
    largest.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    failed(make(build, values, SEAL), f"{largest} is damaged")
    largest.write_bytes(good)
    assert make(build, values, SEAL, ROOTFS).code == 0


def test_an_image_trusts_one_root(maker: Maker, build: FakeBuild) -> None:
    app = maker.app(7)
    maker.world.release({"ticker": app})
    values = maker.values(f"ticker={app}")
    (build.directory / "root.json").write_text("{}")
    # As composeapps-conf would have installed it.
    install = "install -D ${TOPDIR}/root.json ${IMAGE_ROOTFS}${datadir}/composeapps/root.json"
    (build.directory / "classes" / "other-root.bbclass").write_text(
        f'ROOTFS_POSTPROCESS_COMMAND:prepend = "other_root "\nother_root () {{\n    {install}\n}}\n'
    )
    build_values = {**values, "INHERIT": "other-root"}
    failed(make(build, build_values), "trusts another root")
