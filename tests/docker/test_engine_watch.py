"""An engine that does not start, or answers with its own damage, is mended with no help."""

from __future__ import annotations

import shutil
import time

import pytest
from rig import Rig, on_second_release
from test_damage import CONTAINERD, CONTENT, DOCKER, SNAPSHOTS

from testbed import Testbed


@pytest.fixture(scope="module")
def rig(testbed: Testbed) -> Rig:
    return on_second_release(testbed)


def resets(rig: Rig) -> int:
    return [kind for kind, _ in rig.events()].count("reset-engine")


def whole(rig: Rig, lines: list[str]) -> None:
    """Hold the device to the law."""
    status = rig.json("status")
    assert status["apps"]["a"]["state"] == "healthy"
    assert (status["stand_in"], status["failed"]) == (None, [])
    assert rig.log()[: len(lines)] == lines
    assert rig.json("verify", "--deep") == []


DATABASES = {
    "containerd": f"{CONTAINERD}/io.containerd.metadata.v1.bolt/meta.db",
    "volumes": f"{DOCKER}/volumes/metadata.db",
}


@pytest.mark.parametrize("name", DATABASES)
def test_an_engine_that_does_not_start(rig: Rig, name: str) -> None:
    before, lines = resets(rig), rig.log()
    rig.bed.engine("stop")
    rig.bed.path(DATABASES[name]).write_bytes(b"\xde\xad" * 40_000)
    with rig.offline():
        rig.run("start")
    assert resets(rig) == before + 1
    whole(rig, lines)


def test_an_engine_that_is_only_stopped_is_not_reset(rig: Rig) -> None:
    before, lines = resets(rig), rig.log()
    rig.bed.engine("kill")
    with rig.offline():
        rig.run("start")
    assert resets(rig) == before
    whole(rig, lines)


def test_a_store_that_lost_its_files_while_the_engine_answers(rig: Rig) -> None:
    """Directories of snapshots, contents: the databases still name them."""
    lines = rig.log()
    rig.bed.engine("stop")
    for path in rig.bed.path(f"{SNAPSHOTS}/snapshots").iterdir():
        shutil.rmtree(path)
    for path in rig.bed.path(CONTENT).iterdir():
        path.unlink()
    rig.bed.engine("start")
    with rig.offline():
        rig.run("start")
    whole(rig, lines)


def test_systemd_is_made_to_forget_failed_starts(rig: Rig) -> None:
    """The stand-in refuses to start until it is told to forget, as after StartLimitBurst."""
    before = resets(rig)
    (rig.bed.work / "start").write_text(
        "#!/bin/sh\n[ -e /run/work/forgot ] || exit 1\nexec /run/testbed-engine start\n"
    )
    (rig.bed.work / "start").chmod(0o755)
    text = (rig.bed.etc / "composeapps.toml").read_text()
    text = text.replace('"/run/testbed-engine", "start"', '"/run/work/start"')
    text = text.replace("reset_failed = []", 'reset_failed = ["touch", "/run/work/forgot"]')
    (rig.bed.etc / "composeapps.toml").write_text(text)
    rig.bed.engine("kill")
    rig.run("start")
    assert resets(rig) == before
    rig.configure()


def test_an_engine_that_nothing_starts_is_reported_once(rig: Rig) -> None:
    before, lines = resets(rig), rig.log()
    text = (rig.bed.etc / "composeapps.toml").read_text()
    broken = text.replace('"/run/testbed-engine", "start"', '"false"')
    (rig.bed.etc / "composeapps.toml").write_text(broken)
    rig.bed.engine("kill")
    for _ in range(2):
        assert "does not start" in rig.json("start", code=8)["error"]
    assert resets(rig) == before + 1
    rig.configure()
    rig.run("start")
    assert resets(rig) == before + 1
    whole(rig, lines)


def test_a_reset_that_was_killed_begins_again(rig: Rig) -> None:
    """A store that was moved aside by half must not be taken for a whole one."""
    before, lines = resets(rig), rig.log()
    database = rig.bed.path(DATABASES["containerd"])
    begun = database.stat().st_ino
    stop = "/run/testbed-engine stop; kill -KILL $PPID"
    text = (rig.bed.etc / "composeapps.toml").read_text()
    killed = text.replace('"/run/testbed-engine", "stop"', f'"sh", "-c", "{stop}"')
    (rig.bed.etc / "composeapps.toml").write_text(killed)
    assert rig.bed.run("composeapps", "reset", "--engine", check=False).returncode != 0
    assert database.stat().st_ino == begun, "nothing was moved yet"
    rig.configure()
    with rig.offline():
        rig.run("start")
    assert database.stat().st_ino != begun
    assert resets(rig) == before + 1
    whole(rig, lines)


def test_the_resident_part_does_it_by_itself(rig: Rig) -> None:
    before, lines = resets(rig), rig.log()
    rig.bed.engine("stop")
    rig.bed.path(DATABASES["containerd"]).write_bytes(b"garbage" * 9000)
    with rig.resident():
        deadline = time.monotonic() + 240
        while rig.bed.run("composeapps", "status", check=False).returncode:
            assert time.monotonic() < deadline, "its first start heals the engine"
            time.sleep(1)
    assert resets(rig) == before + 1
    whole(rig, lines)
