"""What is asked in a guest: an app that the engine started again is not the end of a switch."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "qemu" / "guest"))

import ask


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "state.db"
    monkeypatch.setattr(ask, "STATE", str(path))
    monkeypatch.setattr(ask, "PATIENCE", 0.1)
    monkeypatch.setattr(ask, "healthy", lambda: True)
    return path


def write(path: Path, *states: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("CREATE TABLE release (version INTEGER, state TEXT)")
    database.executemany("INSERT INTO release VALUES (?, ?)", enumerate(states, 1))
    return database


@pytest.mark.parametrize("going_on", ["installing", "starting", "rolling-back"])
def test_a_switch_is_not_settled(state: Path, going_on: str) -> None:
    write(state, "committed", going_on).close()
    assert not ask.settled()


@pytest.mark.parametrize("ended", ["committed", "failed", "fetching", "fetched"])
def test_what_waits_for_the_network_is_settled(state: Path, ended: str) -> None:
    write(state, "committed", ended).close()
    assert ask.settled()


def test_a_state_that_is_being_written_is_not_settled(state: Path) -> None:
    database = write(state, "committed")
    database.execute("BEGIN EXCLUSIVE")
    assert not ask.settled()
    database.execute("ROLLBACK")
    assert ask.settled()


def test_without_a_state_the_engine_alone_counts(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not state.exists()
    assert ask.settled()
    monkeypatch.setattr(ask, "healthy", lambda: False)
    assert not ask.settled()


def test_every_state_of_a_release_is_told(state: Path) -> None:
    told = ask.states(2, 60)
    with contextlib.closing(write(state, "committed", "fetching")) as database:
        assert next(told) == "fetching"
        for now in ("fetched", "installing"):
            database.execute("UPDATE release SET state = ? WHERE version = 2", (now,))
            assert next(told) == now
    state.unlink()
    write(state, "committed", "failed").close()
    assert "failed" in itertools.islice(told, ask.LOOKS + 1), "another file, as after damage"


def test_a_release_that_is_not_there_is_waited_for_and_no_longer_than_asked(state: Path) -> None:
    assert list(ask.states(1, 0.1)) == []
    write(state, "committed").close()
    assert set(ask.states(2, 1)) == {""}


def test_a_process_that_began_later_is_seen_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = shutil.copy("/bin/sleep", tmp_path / "like-no-other")
    monkeypatch.setattr(os, "getpid", lambda: 1)  # numbers begin anew after a while
    assert not ask.has_process("like-no-other")
    with subprocess.Popen([program, "60"]) as process:
        assert ask.wait(lambda: ask.has_process("like-no-other"), 60, 0.01)
        monkeypatch.setattr(os, "getpid", lambda: process.pid)
        assert not ask.has_process("like-no-other")
        process.kill()


def container(name: str, state: str, status: str = "") -> dict[str, object]:
    labels = {"com.docker.compose.project": "a", "com.docker.compose.service": name}
    return {"State": state, "Status": status, "ImageID": "1", "Labels": labels}


RUNS = container("main", "running", "Up 4 minutes (healthy)")
LEFT = container("main", "created", "Created")


@pytest.mark.parametrize(
    ("found", "stock", "ours"),
    [
        ([RUNS], True, True),
        ([LEFT, RUNS], True, False),
        ([LEFT], False, False),
        ([RUNS, container("other", "created", "Created")], False, False),
        ([RUNS, container("main", "exited", "Exited (1)")], False, False),
        ([], False, False),
    ],
)
def test_what_a_cut_update_of_stock_docker_left_beside_a_healthy_app_is_not_the_app(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    found: list[dict[str, object]],
    stock: bool,
    ours: bool,
) -> None:
    path = tmp_path / "state.db"
    monkeypatch.setattr(ask, "STATE", str(path))
    monkeypatch.setattr(ask, "containers", lambda: found)
    assert ask.healthy() == stock
    write(path, "committed").close()
    assert ask.healthy() == ours
