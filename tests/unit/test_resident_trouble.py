"""``composeapps run`` beside apps, children and engines that fail: what it mends, and how often."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from fakeengine import FakeEngine, event
from residentparts import Resident, count


def test_trouble_of_a_container_is_mended(resident: Resident, engine: FakeEngine) -> None:
    resident.start()
    resident.settle()
    engine.send(event("health_status: healthy") + event("die", project=None) + b"garbage\xff\n")
    time.sleep(0.5)
    assert resident.log().count("begin start") == 1
    engine.send(event("die"))
    resident.wait(count("end start", 2))
    time.sleep(0.5)
    assert resident.log().count("begin start") == 2


def test_what_its_own_children_stop_is_no_trouble(resident: Resident, engine: FakeEngine) -> None:
    resident.start()
    resident.settle()
    resident.does("update", "sleep 2")
    resident.signal(signal.SIGHUP)
    resident.wait(count("begin update", 2))
    engine.send(event("die") * 3)
    resident.wait(count("end update", 2))
    time.sleep(0.6)
    assert resident.log().count("begin start") == 1


def test_a_container_that_ends_as_a_child_does_is_looked_at(
    resident: Resident, engine: FakeEngine
) -> None:
    """The child had looked at all of them before."""
    resident.start()
    resident.settle()
    resident.does("update", "while [ ! -e go ]; do sleep 0.02; done; sleep 0.1")
    resident.signal(signal.SIGHUP)
    resident.wait(count("begin update", 2))
    engine.send(event("die"))
    (resident.directory / "go").touch()
    resident.wait(count("end start", 2))


def test_mending_that_fails_is_tried_again_and_updates_go_on(
    resident: Resident, engine: FakeEngine
) -> None:
    resident.does("start", "[ $(grep -c begin log) -gt 3 ] || exit 12")
    resident.start()
    log = resident.wait(count("end start", 1))
    assert log.count("begin start") >= 2
    resident.wait(count("end update", 1))


def test_an_engine_that_went_away_and_came_back_is_looked_at(
    resident: Resident, engine: FakeEngine
) -> None:
    """Nobody knows what was missed meanwhile."""
    resident.start()
    resident.settle()
    engine.drop()
    resident.wait(count("end start", 2))
    time.sleep(0.5)
    assert resident.log().count("begin start") == 2, "and once is enough"


@pytest.mark.parametrize("answer", ["none", "silence", "refusal"])
def test_an_engine_that_does_not_answer_is_mended(
    resident: Resident, tmp_path: Path, answer: str
) -> None:
    says = {"silence": b"", "refusal": b"HTTP/1.0 500 Internal Server Error\r\n\r\n"}
    fake = FakeEngine(tmp_path / "docker.sock", says[answer]) if answer in says else None
    resident.start()
    resident.settle()
    resident.wait(count("end start", 2))
    if fake is not None:
        fake.end()


def test_a_child_that_is_killed_is_not_the_end(resident: Resident, engine: FakeEngine) -> None:
    resident.does("update", "rm update; kill -9 $$")
    resident.start()
    resident.wait(count("end update", 1))
    assert resident.log().count("begin update") == 2


def test_an_engine_that_is_not_local_is_refused(resident: Resident) -> None:
    resident.settings.write_text('[engine]\ndocker = "tcp://127.0.0.1:1"\n')
    resident.start()
    assert resident.ended() == 3
    assert resident.errors().startswith("composeapps: engine.docker has to be a unix:// address")
