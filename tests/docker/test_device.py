"""The device's whole path on a real engine: update, keep, fail, go back, start again."""

from __future__ import annotations

import time

import pytest
from rig import Rig
from world import TICKER

from testbed import Testbed

EXITS = TICKER.replace("trap exit TERM;", "echo sorry >&2; exit 3;")
UNHEALTHY = TICKER.replace("[CMD, test, -s, /data/log]", "[CMD, 'false']").replace(
    "start_period: 10s", "start_period: 1s\n      retries: 2"
)
NEVER = TICKER.replace("[CMD, test, -s, /data/log]", "[CMD, 'false']").replace(
    "health_timeout: 40", "health_timeout: 3"
)
#: Its network is another app's, which comes later in the alphabet.
GUEST = TICKER.replace("    volumes:", "    networks: [b]\n    volumes:", 1) + (
    "networks: {b: {name: b_default, external: true}}\n".replace("{", "{{").replace("}", "}}")
)
#: The engine has no log to tell of it.
SILENT = EXITS.replace(
    "    restart: unless-stopped", "    restart: unless-stopped\n    logging: {{driver: none}}"
)
#: It says so when it is asked to end.
POLITE = TICKER.replace(
    "trap exit TERM;", "trap 'echo bye >> /data/log; sync /data/log; exit' TERM;"
)
UNREADABLE = TICKER + "networks: {{nonsense: [}}\n"


@pytest.fixture(scope="module")
def rig(testbed: Testbed) -> Rig:
    """Return a device with no release yet."""
    return Rig(testbed)


def test_a_first_release_is_fetched_sealed_and_started(rig: Rig) -> None:
    rig.run("start", code=6)
    version = rig.update({"a": rig.world.ticker(1)})
    status = rig.json("status")
    assert status["current"]["version"] == version
    assert status["apps"]["a"]["state"] == "healthy"
    assert rig.log() == ["v1"]
    assert rig.mounted() == 2 == len(rig.layer_files())
    assert rig.json("verify", "--deep") == []


def test_the_engine_holds_no_layer_bytes(rig: Rig) -> None:
    script = (
        "find /var/lib/containerd/io.containerd.content.v1.content /var/lib/containerd/"
        "io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs /var/lib/docker -xdev "
        "-path '*/_data/*' -prune -o -type f -size +64k -print"
    )
    assert rig.bed.run("sh", "-c", script).stdout == ""


def test_nothing_new_changes_nothing(rig: Rig) -> None:
    before = rig.json("ps")
    found = rig.json("update")
    assert found["check"]["verdict"] == "up-to-date"
    assert rig.json("ps") == before


def test_what_a_killed_run_did_not_prune_goes_with_the_next_look(rig: Rig) -> None:
    """Power went after a switch had ended: what it left must not stay until the next release."""
    rig.bed.python(
        "import sqlite3, pathlib\n"
        'db = sqlite3.connect("/var/lib/composeapps/state.db")\n'
        "db.execute(\"REPLACE INTO meta VALUES ('prune', 'yes')\")\n"
        "db.commit()\n"
        'pathlib.Path("/run/composeapps/layers/left").mkdir()\n'
        'pathlib.Path("/var/lib/composeapps/apps/left").mkdir()\n'
    )
    rig.run("update")
    assert not rig.bed.path("/run/composeapps/layers/left").exists()
    assert not rig.bed.path("/var/lib/composeapps/apps/left").exists()
    rig.bed.path("/var/lib/composeapps/apps/left").mkdir()
    rig.run("update")
    assert rig.bed.path("/var/lib/composeapps/apps/left").exists(), "it looks once"
    rig.bed.path("/var/lib/composeapps/apps/left").rmdir()


def test_an_update_seals_only_what_is_new_and_keeps_the_volume(rig: Rig) -> None:
    apps = {"a": rig.world.ticker(2)}
    version = rig.world.release(apps)
    difference = rig.json("diff")
    assert difference["layers"] == 1
    assert difference["apps"] == {"a": "changed, 1 of 1 images are new"}
    rig.run("update")
    assert rig.version() == version
    assert rig.log() == ["v1", "v2"]
    assert len(rig.layer_files()) == 3  # the previous release is kept


@pytest.mark.parametrize(
    ("compose", "reason"),
    [
        (EXITS, "restarted 3 times, last exit code 3"),
        (SILENT, "restarted 3 times, last exit code 3"),
        (UNHEALTHY, "is unhealthy"),
        (NEVER, "not healthy in time"),
        (UNREADABLE, "docker-compose"),
    ],
    ids=["exits", "silent", "unhealthy", "too-late", "unreadable"],
)
def test_a_bad_release_is_rolled_back_remembered_and_reported(
    rig: Rig, compose: str, reason: str
) -> None:
    before = rig.version()
    version = rig.world.release({"a": rig.world.ticker(100 + before, compose=compose)})
    rig.run("update", code=9)
    status = rig.json("status")
    assert status["current"]["version"] == before
    assert status["apps"]["a"]["state"] == "healthy"
    assert reason in status["failed"][0]["reason"]
    kind, body = rig.events()[-1]
    assert (kind, body["version"]) == ("failed", version)
    if compose is EXITS:
        assert "sorry" in body["apps"][0]["log"]
    if compose is SILENT:
        assert "does not support reading" in body["apps"][0]["log"]
    assert rig.json("update")["check"]["verdict"] == "failed-before"
    assert len(rig.layer_files()) == 3


def test_a_failed_release_is_tried_again_when_a_person_says_so(rig: Rig) -> None:
    before = rig.version()
    rig.run("retry")
    rig.run("update", code=9)
    assert rig.version() == before
    rig.run("retry")
    assert rig.update({"a": rig.world.ticker(3)}) == rig.version()
    rig.run("retry", code=2)


def test_a_removed_app_goes_and_a_new_one_comes(rig: Rig) -> None:
    rig.update({"a": rig.world.ticker(30, compose=POLITE)})
    rig.update({"b": rig.world.ticker(4)})
    assert rig.log("a")[-2:] == ["v30", "bye"], "it had the time to end that it asks for"
    assert {row["project"] for row in rig.json("ps")} == {"b"}
    assert set(rig.log("a")) >= {"v1"}  # the volume of the removed app is never touched
    names = rig.bed.python(
        "import docker; print([n.name for n in docker.from_env().networks.list()])"
    )
    assert "a_default" not in names
    assert "b_default" in names


def test_a_reboot_needs_no_network(rig: Rig) -> None:
    rig.bed.reboot()
    rig.bed.engine("start")
    with rig.offline():
        rig.run("start")
        assert rig.json("status")["apps"]["b"]["state"] == "healthy"
        rig.run("update", code=4)
    assert rig.json("verify", "--deep") == []


def test_a_person_removes_everything_the_engine_has(rig: Rig) -> None:
    script = """
import docker
client = docker.from_env()
for container in client.containers.list(all=True): container.remove(force=True)
client.images.prune({"dangling": False}); client.networks.prune()
"""
    with rig.offline():
        rig.bed.python(script)
        rig.run("start")
        assert rig.json("status")["apps"]["b"]["state"] == "healthy"
    assert rig.json("verify", "--deep") == []


def test_stop_lasts_until_start(rig: Rig) -> None:
    rig.run("stop")
    assert rig.json("status", code=12)["apps"]["b"]["state"] == "failed"
    rig.run("start")
    assert rig.json("status")["apps"]["b"]["state"] == "healthy"
    assert not rig.json("status")["stopped"]


def test_the_resident_part_lets_stopped_apps_be(rig: Rig) -> None:
    """Its start, its reaction to what died, and its updates: all leave the apps stopped."""
    before = rig.version()
    rig.run("stop")
    version = rig.world.release({"b": rig.world.ticker(20)})
    said = rig.bed.work / "said"
    with rig.resident(said):
        deadline = time.monotonic() + 60
        while "it is fetched" not in said.read_text():
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
    assert "stopped until the next start" in said.read_text()
    status = rig.json("status", code=12)
    assert (status["stopped"], status["current"]["version"]) == (True, before)
    assert status["apps"]["b"]["state"] == "failed"
    rig.bed.reboot()
    rig.run("mount")
    rig.bed.engine("start")
    rig.run("start", "--unless-stopped")
    assert rig.json("status")["apps"]["b"]["state"] == "healthy"
    rig.run("stop")
    rig.run("apply")
    assert rig.version() == version
    assert not rig.json("status")["stopped"]


def test_prune_keeps_what_runs_and_what_ran_before(rig: Rig) -> None:
    rig.update({"b": rig.world.ticker(5)})
    rig.update({"b": rig.world.ticker(6)})
    assert len(rig.layer_files()) == 3
    mounted = rig.mounted()
    assert mounted == 3
    assert rig.json("prune") == {"freed": 0}
    chains = rig.bed.run(
        "ctr", "-n", "moby", "snapshots", "--snapshotter", "overlayfs", "ls"
    ).stdout
    assert sum(line.startswith("sha256:") for line in chains.splitlines()) == 3


def test_one_writer_at_a_time(rig: Rig) -> None:
    holder = rig.bed.start_in("flock", "/var/lib/composeapps/lock", "sleep", "30")
    for _ in range(100):
        probe = rig.bed.run("flock", "-n", "/var/lib/composeapps/lock", "true", check=False)
        if probe.returncode:
            break
    assert "at work already" in rig.json("update", code=10)["error"]
    holder.kill()
    rig.bed.run("pkill", "-f", "sleep 30", check=False)


def test_two_apps_share_layers(rig: Rig) -> None:
    rig.update({"a": rig.world.ticker(7), "b": rig.world.ticker(7)})
    assert len({row["project"] for row in rig.json("ps")}) == 2
    assert len(rig.layer_files()) == 3


def test_an_app_starts_after_the_one_whose_network_it_uses(rig: Rig) -> None:
    rig.update({"c": rig.world.ticker(8)})  # neither app nor network is there before
    rig.update({"a": rig.world.ticker(9, compose=GUEST), "b": rig.world.ticker(9)})
    assert {row["project"] for row in rig.json("ps")} == {"a", "b"}


def test_a_network_that_another_app_is_on_stays(rig: Rig) -> None:
    """Resetting the app that made it, and removing both in either order, is no error."""
    before = {row["name"]: row["id"] for row in rig.json("ps")}
    rig.run("reset", "b")
    after = {row["name"]: row["id"] for row in rig.json("ps")}
    assert after["a-main-1"] == before["a-main-1"], "the other app ran on"
    assert after["b-main-1"] != before["b-main-1"]
    late = GUEST.replace("name: b_default", "name: a_default")
    rig.update({"a": rig.world.ticker(9), "c": rig.world.ticker(9, compose=late)})
    rig.update({"b": rig.world.ticker(9)})
    names = rig.bed.python(
        "import docker; print([n.name for n in docker.from_env().networks.list()])"
    )
    assert "b_default" in names
    assert "a_default" not in names


def test_a_volume_is_removed_only_where_it_is_named(rig: Rig) -> None:
    """One that does not exist is told before anything is done."""
    before, containers = rig.log("b"), rig.json("ps")
    assert (
        "no volume nonsense" in rig.json("reset", "b", "--wipe-volume", "nonsense", code=2)["error"]
    )
    assert rig.json("ps") == containers
    rig.run("reset", "b")
    assert rig.log("b")[: len(before)] == before, "not where none is named"
    other = rig.log("a")
    rig.run("reset", "b", "--wipe-volume", "data")
    assert rig.log("b") == ["v9"]
    assert rig.log("a") == other
