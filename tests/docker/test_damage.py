"""Damage, one kind at a time: verify names it, reset mends it offline, volumes are intact.

Each test leaves the device whole again, so that the next one starts from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import STORE, Rig, writable

from testbed import Testbed

CONTAINERD = "/var/lib/containerd"
DOCKER = "/var/lib/docker"
SNAPSHOTS = f"{CONTAINERD}/io.containerd.snapshotter.v1.overlayfs"
CONTENT = f"{CONTAINERD}/io.containerd.content.v1.content/blobs/sha256"


@pytest.fixture(scope="module")
def rig(testbed: Testbed) -> Rig:
    """Return a device that runs two apps on shared layers, its second release."""
    rig = Rig(testbed)
    rig.update({"a": rig.world.ticker(1), "b": rig.world.ticker(1)})
    rig.update({"a": rig.world.ticker(2), "b": rig.world.ticker(3)})
    return rig


@pytest.fixture(autouse=True)
def _whole(rig: Rig) -> Iterator[None]:
    """Hold every test to the law: healthy, complete, volumes as they were."""
    before = {app: rig.log(app) for app in ("a", "b")}
    version = rig.version()
    yield
    status = rig.json("status")
    assert {app["state"] for app in status["apps"].values()} == {"healthy"}
    assert status["stand_in"] is None
    assert rig.version() == version
    assert rig.json("verify", "--deep") == []
    for app, lines in before.items():
        assert rig.log(app)[: len(lines)] == lines


def _kinds(rig: Rig, *arguments: str) -> set[str]:
    return {item["kind"] for item in rig.json("verify", *arguments, code=6)}


def _layer(rig: Rig, number: int) -> Path:
    """Return the sealed layer that only release ``number``'s images have."""
    for path in rig.layer_files():
        if (rig.bed.path(f"/run/composeapps/layers/{path.stem}") / f"etc/noise-{number}").exists():
            return path
    raise AssertionError(f"no sealed layer of {number}")


def _base(rig: Rig) -> Path:
    for path in rig.layer_files():
        if (rig.bed.path(f"/run/composeapps/layers/{path.stem}") / "bin/busybox").exists():
            return path
    raise AssertionError("no base layer")


def _flip(path: Path, offset: int = 5000) -> None:
    with writable(path).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def _blobs(rig: Rig) -> list[Path]:
    return sorted(rig.bed.path(f"{STORE}/blobs/sha256").iterdir())


@pytest.mark.parametrize("damage", ["garbage", "empty", "deleted"])
def test_every_small_blob(rig: Rig, damage: str) -> None:
    for path in _blobs(rig):
        if damage == "deleted":
            path.unlink()
        else:
            path.write_bytes(b"garbage" if damage == "garbage" else b"")
    assert _kinds(rig) <= {"blob", "release", "project"}
    with rig.offline():
        rig.run("reset")


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "deleted", "swapped"])
def test_a_sealed_layer_offline_then_online(rig: Rig, damage: str) -> None:
    path, other = _layer(rig, 2), _layer(rig, 3)
    if damage == "flipped":
        _flip(path)
    elif damage == "swapped":
        shutil.copy(other, writable(path))
    elif damage == "deleted":
        path.unlink()
    else:
        with writable(path).open("r+b") as file:
            file.truncate(0 if damage == "empty" else path.stat().st_size // 2)
    assert "layer" in _kinds(rig, "--deep")
    with rig.offline():
        error = rig.json("reset", code=6)["error"]
        assert "composeapps update" in error
        status = rig.json("status")
        assert status["stand_in"]  # the previous release runs meanwhile
        assert {app["state"] for app in status["apps"].values()} == {"healthy"}
    rig.run("update")
    kinds = [kind for kind, _ in rig.events()]
    assert [kind for kind in kinds if kind in ("stand-in", "mended")][-2:] == ["stand-in", "mended"]


def test_a_layer_that_two_apps_share(rig: Rig) -> None:
    _flip(_base(rig))
    found = rig.json("verify", "--deep", code=6)
    assert {tuple(item["apps"]) for item in found} == {("a", "b")}
    with rig.offline():
        rig.json("reset", code=6)  # every release has it, so nothing can run
    rig.run("update")


@pytest.mark.parametrize("damage", ["missing", "wrong", "directory", "gone"])
def test_an_engine_snapshots_link(rig: Rig, damage: str) -> None:
    snapshots = rig.bed.path(f"{SNAPSHOTS}/snapshots").iterdir()
    links = [path / "fs" for path in snapshots if (path / "fs").is_symlink()]
    assert len(links) >= 3
    for link in links:
        link.unlink()
        if damage == "wrong":
            link.symlink_to("/tmp")
        elif damage == "directory":
            link.mkdir()
            (link / "intruder").write_text("x")
        elif damage == "gone":
            shutil.rmtree(link.parent)
    assert _kinds(rig) == {"snapshot"}
    with rig.offline():
        rig.run("reset")


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage"])
@pytest.mark.parametrize(
    "database",
    [
        f"{CONTAINERD}/io.containerd.metadata.v1.bolt/meta.db",
        f"{SNAPSHOTS}/metadata.db",
        f"{DOCKER}/network/files/local-kv.db",
        f"{DOCKER}/volumes/metadata.db",
    ],
    ids=["containerd", "snapshotter", "networks", "volumes"],
)
def test_a_database_of_the_engine(rig: Rig, database: str, damage: str) -> None:
    rig.bed.engine("stop")
    path = rig.bed.path(database)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else b"\xde\xad" * 40_000)
    rig.bed.run("/run/testbed-engine", "start", check=False)
    with rig.offline():
        rig.run("reset")


@pytest.mark.parametrize("damage", ["deleted", "garbage"])
def test_the_engines_content_store(rig: Rig, damage: str) -> None:
    for path in rig.bed.path(CONTENT).iterdir():
        if damage == "deleted":
            path.unlink()
        else:
            path.write_bytes(b"garbage")
    assert _kinds(rig, "--deep") <= {"image", "content", "engine"}
    with rig.offline():
        rig.run("reset")


def test_a_containers_config(rig: Rig) -> None:
    rig.bed.engine("stop")
    for path in rig.bed.path(f"{DOCKER}/containers").glob("*/config.v2.json"):
        path.write_text("garbage")
    rig.bed.engine("start")
    assert "container" in _kinds(rig)
    with rig.offline():
        rig.run("reset")


def test_a_containers_writable_layer(rig: Rig) -> None:
    rig.bed.engine("stop")
    for path in rig.bed.path(f"{SNAPSHOTS}/snapshots").iterdir():
        if not (path / "fs").is_symlink():
            shutil.rmtree(path)
    rig.bed.engine("start")
    assert "container" in _kinds(rig)
    with rig.offline():
        rig.run("reset")


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "running"])
def test_the_whole_data_root_but_volumes(rig: Rig, stopped: bool) -> None:
    if stopped:
        rig.bed.engine("stop")
    script = f"rm -rf {CONTAINERD}/*; cd {DOCKER} && ls | grep -v volumes | xargs rm -rf"
    rig.bed.run("sh", "-c", script, check=False)
    with rig.offline():
        rig.run("reset")


def test_an_engine_that_is_not_running(rig: Rig) -> None:
    rig.bed.engine("kill")
    assert _kinds(rig) == {"engine"}
    with rig.offline():
        rig.run("start")


def test_project_files(rig: Rig) -> None:
    for path in rig.bed.path("/var/lib/composeapps/apps").glob("*/compose.yaml"):
        path.write_text("services: {}\n")
    assert "project" in _kinds(rig)
    with rig.offline():
        rig.run("reset")


def test_the_state_file(rig: Rig) -> None:
    rig.bed.path("/var/lib/composeapps/state.db").write_bytes(b"garbage" * 1000)
    with rig.offline():
        rig.run("start")


def test_the_trust_cache(rig: Rig) -> None:
    shutil.rmtree(rig.bed.path("/var/lib/composeapps/trust"))
    with rig.offline():
        rig.run("start")
    rig.run("update")
