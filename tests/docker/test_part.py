"""Damage that no local copy mends, and no other release: the other apps run, later all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from rig import Rig
from world import TICKER

from testbed import Testbed

#: Where an EROFS image has its superblock.
SUPERBLOCK = 1024


@pytest.fixture(scope="module")
def rig(testbed: Testbed) -> Rig:
    """Return a device whose image carries apps a and b; a layer of a's own is damaged in it."""
    rig = Rig(testbed)
    rig.world.release({"a": rig.world.ticker(11), "b": rig.world.ticker(12)})
    factory = rig.preload("two-apps")
    damage(own_layer(factory / "layers"))
    rig.boot(factory)
    rig.bed.engine("start")
    return rig


def own_layer(directory: Path) -> Path:
    """Return the layer that only app a has."""
    (found,) = [path for path in directory.glob("*.erofs") if b"noise-11" in path.read_bytes()]
    return found


def damage(layer: Path) -> None:
    """Flip a bit without which the file is no file system."""
    data = bytearray(layer.read_bytes())
    data[SUPERBLOCK] ^= 1
    layer.unlink()  # fs-verity may keep it from being written to
    layer.write_bytes(data)


def kinds(rig: Rig) -> list[str]:
    return [kind for kind, _ in rig.events()]


def b_runs_alone(rig: Rig) -> None:
    """See that b is healthy and that a is not there."""
    apps = rig.json("status", code=12)["apps"]
    assert apps["b"]["state"] == "healthy"
    assert apps["a"]["state"] != "healthy"


def test_the_other_app_of_the_image_runs(rig: Rig) -> None:
    with rig.offline():
        rig.run("start", code=6)
        b_runs_alone(rig)
        before = rig.json("ps")
        rig.run("start", code=6)
        assert rig.json("ps") == before
    assert rig.log("b") == ["v12"]
    assert kinds(rig).count("incomplete") == 1
    assert not rig.bed.path("/var/lib/docker/volumes/a_data").exists()


def test_the_network_brings_what_is_damaged_though_the_release_has_failed(rig: Rig) -> None:
    assert rig.json("status", code=12)["failed"]
    rig.run("update")
    assert rig.log("a") == ["v11"]
    assert rig.log("b") == ["v12"]
    status = rig.json("status")
    assert {app["state"] for app in status["apps"].values()} == {"healthy"}
    assert (status["failed"], status["stand_in"]) == ([], None)
    rig.run("start")
    assert kinds(rig).count("incomplete") == 1


def test_the_same_of_a_committed_release(rig: Rig) -> None:
    damage(own_layer(rig.bed.path("/var/lib/composeapps/store/layers")))
    rig.bed.reboot()
    rig.bed.engine("start")
    with rig.offline():
        rig.run("start", code=6)
        b_runs_alone(rig)
    assert kinds(rig).count("incomplete") == 2
    rig.run("update")
    assert {app["state"] for app in rig.json("status")["apps"].values()} == {"healthy"}
    assert rig.log("b")[0] == "v12", "volumes stay"


def test_what_is_damaged_again_and_again_is_not_fetched_for_ever(rig: Rig) -> None:
    """A medium that spoils what is written to it must not cost a download at each look."""
    version = rig.world.release({"a": rig.world.ticker(13), "b": rig.world.ticker(12)})
    for _ in range(9):
        rig.run("fetch")
        spoiled = [
            path
            for path in rig.bed.path("/var/lib/composeapps/store/layers").glob("*.erofs")
            if b"noise-13" in path.read_bytes()
        ]
        if not spoiled:
            break
        damage(spoiled[0])
        rig.run("apply", code=9)
    failed = rig.json("status")["failed"]
    assert [item["version"] for item in failed] == [version]
    assert kinds(rig).count("failed") in range(3, 9)
    rig.run("update")
    assert rig.json("status")["current"]["version"] != version


def test_a_release_that_is_bad_too_is_not_taken_again(rig: Rig) -> None:
    """It failed for damage first, and for itself when it was whole."""
    bad = rig.world.ticker(14, compose=TICKER.replace("trap exit TERM;", "exit 3;"))
    rig.world.release({"a": bad, "b": rig.world.ticker(12)})
    rig.run("fetch")
    layers = rig.bed.path("/var/lib/composeapps/store/layers").glob("*.erofs")
    damage(next(path for path in layers if b"noise-14" in path.read_bytes()))
    rig.run("apply", code=9)
    rig.run("update", code=9)
    failures = kinds(rig).count("failed")
    rig.run("update")
    assert kinds(rig).count("failed") == failures
    assert rig.json("check")["verdict"] == "failed-before"
