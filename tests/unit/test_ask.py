"""What is asked in a guest: an app that the engine started again is not the end of a switch."""

from __future__ import annotations

import sqlite3
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
