"""What runs when the current release is damaged, who says so, and what ends it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from rig import STORE, Rig, on_second_release
from world import TICKER, noise_layer

from composeapps.oci import digest_of, hex_of
from testbed import Testbed

EXITS = TICKER.replace("trap exit TERM;", "exit 3;")


@pytest.fixture(scope="module")
def rig(testbed: Testbed) -> Rig:
    return on_second_release(testbed)


def _own_layer(rig: Rig) -> Path:
    """Return the sealed layer that only the current release has."""
    images = {row["image"] for row in rig.json("ps")}
    assert len(images) == 1
    manifest = images.pop().partition("@sha256:")[2]
    blobs = rig.bed.path(f"{STORE}/blobs/sha256")
    config = json.loads((blobs / manifest).read_text())["config"]["digest"][7:]
    diff_id = json.loads((blobs / config).read_text())["rootfs"]["diff_ids"][-1][7:]
    return next(path for path in rig.layer_files() if path.name.startswith(diff_id))


def test_a_newer_release_ends_a_stand_in(rig: Rig) -> None:
    _own_layer(rig).unlink()
    with rig.offline():
        rig.run("reset", code=6)
    assert rig.json("status")["stand_in"]
    # What is damaged cannot be had any more; only the newer release can be.
    lost = digest_of(gzip.compress(noise_layer(2, 200_000), 6, mtime=0))
    (rig.world.blobs / hex_of(lost)).unlink()
    rig.run("update", code=4)
    version = rig.world.release({"a": rig.world.ticker(3)})
    rig.run("update")
    status = rig.json("status")
    assert (status["stand_in"], status["current"]["version"]) == (None, version)
    assert rig.json("verify", "--deep") == []


def test_going_back_further_says_what_stands_in(rig: Rig) -> None:
    rig.run("update")
    rig.world.release({"a": rig.world.ticker(4, compose=EXITS)})
    layer = _own_layer(rig)
    rig.run("fetch")
    layer.unlink()
    rig.bed.reboot()  # else the deleted file goes on being mounted
    rig.bed.engine("start")
    rig.run("apply", code=9)
    status = rig.json("status")
    roles = {row["role"]: row["digest"] for row in rig.json("ls")}
    assert status["stand_in"] == roles["previous"]
    assert "stand-in" in [kind for kind, _ in rig.events()]
    rig.run("update")
    assert rig.json("status")["stand_in"] is None


def test_a_project_and_its_blobs_are_fetched_again(rig: Rig) -> None:
    """No copy is left of a Compose file, and its blob is damaged: the network has it."""
    rig.bed.run("sh", "-c", "rm -rf /var/lib/composeapps/apps/*")
    for path in rig.bed.path(f"{STORE}/blobs/sha256").iterdir():
        if b"services:" in path.read_bytes():
            path.write_bytes(b"garbage")
    rig.run("update")
    assert rig.json("verify", "--deep") == []


def test_a_missing_program_of_the_device_is_not_the_releases_fault(rig: Rig) -> None:
    failed = rig.json("status")["failed"]
    version = rig.world.release({"a": rig.world.ticker(5)})
    links = "mkdir -p /run/work/bin; for p in env docker-compose ctr; do ln -sf /usr/bin/$p "
    rig.bed.run("sh", "-c", links + "/run/work/bin/; done")
    path = "PATH=/usr/local/bin:/run/work/bin"
    done = rig.bed.run("env", path, "composeapps", "update", check=False)
    assert done.returncode == 3, done.stderr
    assert "install erofs-utils" in done.stderr
    assert rig.json("status")["failed"] == failed
    rig.run("update")
    assert rig.version() == version


def test_the_factory_release_is_not_committed_twice(rig: Rig) -> None:
    factory = "/run/work/factory"
    script = f"mkdir -p {factory} && cp -r {STORE}/blobs {STORE}/layers {factory}/"
    rig.bed.run("sh", "-c", script)
    current = rig.json("status")["current"]["digest"]
    document = rig.bed.path(f"{STORE}/blobs/sha256/{current[7:]}").read_bytes()
    rig.bed.path(f"{factory}/release.json").write_bytes(document)
    rig.configure(f'[paths]\nfactory = "{factory}"\n')
    before = [kind for kind, _ in rig.events()].count("committed")
    rig.run("reset", "--factory")
    assert [kind for kind, _ in rig.events()].count("committed") == before
    assert rig.json("status")["current"]["digest"] == current


def test_a_damaged_factory_blob_with_a_good_copy_is_no_finding(rig: Rig) -> None:
    own = {path.name for path in rig.bed.path(f"{STORE}/blobs/sha256").iterdir()}
    blobs = rig.bed.path("/run/work/factory/blobs/sha256").iterdir()
    damaged = [path for path in blobs if path.name in own]
    assert damaged
    good = {path: path.read_bytes() for path in damaged}
    for path in damaged:
        path.write_bytes(b"garbage")
    assert rig.json("verify", "--deep") == []
    rig.run("start")
    for path, data in good.items():
        path.write_bytes(data)


def test_a_damaged_factory_release_stops_nothing(rig: Rig) -> None:
    """The law L1 asks for it: the committed release has nothing to do with it."""
    path = rig.bed.path("/run/work/factory/release.json")
    good = path.read_bytes()
    freed = []
    for bad in (b"", b"garbage", good.replace(b"sha256:", b"sha256:0", 1)[:-2]):
        path.write_bytes(bad)
        rig.run("start")
        freed.append(rig.json("prune")["freed"])
        assert [item["name"] for item in rig.json("verify", code=6)] == ["factory"]
    assert freed[0] > 0 == freed[1] == freed[2]
    path.write_bytes(good)
    assert rig.json("verify") == []


def test_an_apps_variables_come_from_the_devices_env_file(rig: Rig) -> None:
    compose = TICKER.replace("echo {mark} >>", "echo $${{COLOUR}} >>").replace(
        "    stop_grace_period",
        '    environment: {{COLOUR: "${{COLOUR:-none}}"}}\n    stop_grace_period',
    )
    (rig.bed.etc / "env").mkdir()
    (rig.bed.etc / "env" / "a.env").write_text("COLOUR=green\n")
    rig.update({"a": rig.world.ticker(6, compose=compose)})
    assert rig.log()[-1] == "green"


def test_a_blob_that_only_the_network_has_is_fetched_once(rig: Rig) -> None:
    for path in rig.bed.path("/var/lib/composeapps/apps").glob("*/compose.yaml"):
        path.write_text(path.read_text() + "# changed\n")
    for path in rig.bed.path(f"{STORE}/blobs/sha256").iterdir():
        if b"services:" in path.read_bytes():
            path.write_bytes(b"garbage")
    rig.run("update")
    rig.run("reset")
    assert rig.json("verify", "--deep") == []
    done = rig.bed.run("composeapps", "update")
    assert "incomplete" not in done.stderr
