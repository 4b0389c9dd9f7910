"""Early start: layers are mounted before the engine, and its containers come up by themselves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from rig import LAYERS, STORE, Rig

from testbed import Testbed


@pytest.fixture(scope="module")
def rig(testbed: Testbed) -> Rig:
    """Return a device on its first release."""
    rig = Rig(testbed)
    rig.update({"a": rig.world.ticker(1)})
    return rig


@pytest.fixture(scope="module")
def factory(rig: Rig) -> Path:
    """Return a factory store of that release."""
    return rig.preload("one")


def sources(rig: Rig) -> set[str]:
    """Return what each sealed layer is mounted from: a file, or a loop device."""
    lines = rig.bed.run("cat", "/proc/self/mountinfo").stdout.splitlines()
    return {line.split(" - erofs ")[1].split()[0] for line in lines if f" {LAYERS}/" in line}


def wait_healthy(rig: Rig) -> None:
    """Wait for the engine's own restart of the app; ``status`` mends nothing."""
    deadline = time.monotonic() + 60  # its health check is asked five times a second
    while rig.bed.run("composeapps", "status", check=False).returncode:
        assert time.monotonic() < deadline, rig.bed.run("composeapps", "status", check=False)
        time.sleep(0.2)


@pytest.mark.parametrize("way", ["file", "loop"])
def test_containers_come_up_on_mounted_layers_before_anybody_looks(rig: Rig, way: str) -> None:
    rig.configure(engine=f'mount = "{way}"')
    rig.bed.reboot()
    rig.run("mount")
    assert rig.mounted() == 2
    assert all(source.startswith("/dev/loop") == (way == "loop") for source in sources(rig))
    before = rig.log()
    rig.bed.engine("start")
    wait_healthy(rig)
    assert rig.log() == [*before, "v1"]
    rig.run("start")
    assert rig.log() == [*before, "v1"], "start found nothing to do"


def test_without_it_they_do_not(rig: Rig) -> None:
    """So the test above can fail."""
    rig.bed.reboot()
    before = rig.log()
    rig.bed.engine("start")
    rig.run("status", code=12)
    assert rig.log() == before
    rig.run("start")


def test_mounting_again_changes_nothing(rig: Rig) -> None:
    assert len(rig.json("mount")["mounted"]) == 2 == rig.mounted()


def test_a_missing_layer_keeps_no_other_from_being_mounted(rig: Rig) -> None:
    layer = rig.layer_files()[0]
    data = layer.read_bytes()
    layer.unlink()
    rig.bed.reboot()
    assert layer.stem in rig.json("mount", code=6)["error"]
    assert rig.mounted() == 1
    rig.bed.path(f"{STORE}/layers/{layer.name}").write_bytes(data)
    rig.run("mount")
    rig.bed.engine("start")
    wait_healthy(rig)


def test_a_layer_of_the_image_that_cannot_be_mounted(rig: Rig, factory: Path) -> None:
    """Its twin in the data store takes its place."""
    rig.boot(factory)
    layer = rig.layer_files()[0].name
    (rig.bed.share / "factory" / "layers" / layer).write_bytes(b"garbage" * 1000)
    rig.bed.reboot()
    assert "cannot be mounted" in rig.bed.run("composeapps", "mount").stderr
    rig.bed.engine("start")
    wait_healthy(rig)
    rig.bed.reboot()
    rig.bed.engine("start")  # with no early start
    rig.run("start")
    assert rig.events()[-1][0] == "damaged-layer"


@pytest.mark.parametrize("state", ["", "garbage"])
def test_the_image_alone(rig: Rig, factory: Path, state: str) -> None:
    """Nothing, or nothing of use, is on the data partition."""
    rig.boot(factory)
    wipe = "rm -rf /var/lib/composeapps/* /var/lib/docker/* /var/lib/containerd/*"
    rig.bed.run("sh", "-c", wipe)
    if state:
        rig.bed.path("/var/lib/composeapps/state.db").write_text(state * 1000)
    rig.run("mount")
    assert rig.mounted() == 2
    assert rig.bed.run("ls", "/var/lib/composeapps").stdout == ("state.db\n" if state else "")
    rig.bed.engine("start")
    rig.run("start")
    assert rig.layer_files() == [], "nothing was copied"
    assert rig.json("verify", "--deep") == []


def test_it_keeps_off_where_another_writes(rig: Rig) -> None:
    holder = rig.bed.start_in("flock", "/var/lib/composeapps/lock", "sleep", "30")
    while (
        rig.bed.run("flock", "-n", "/var/lib/composeapps/lock", "true", check=False).returncode == 0
    ):
        time.sleep(0.05)
    rig.run("mount", code=10)
    holder.kill()
    rig.bed.run("pkill", "-f", "sleep 30", check=False)


def test_an_image_with_nothing(rig: Rig) -> None:
    rig.boot()
    rig.bed.run("sh", "-c", "rm -rf /var/lib/composeapps/* /var/lib/containerd/*")
    assert rig.json("mount") == {"mounted": []}
