"""An older agent beside the state of a newer one: what it takes over, and what it never changes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from composeapps import config
from composeapps.device import Device
from composeapps.errors import DamagedStateError
from composeapps.oci import digest_of
from composeapps.state import COMMITTED, FAILED, SCHEMA, State
from composeapps.statefile import is_beside, open_state

NEWER = SCHEMA + 1


def newer(directory: Path, *statements: str) -> Path:
    """Write a state with a committed, a previous, a failed and a half-switched release."""
    path = directory / "state.db"
    with closing(State(path)) as state:
        for version in (1, 2, 3, 4):
            document = f"release {version}".encode()
            digest = digest_of(document)
            state.add_release(digest, "stable", version, document)
            for step in ("fetching", "fetched", "installing", "starting"):
                state.advance(digest, step)
            if version < 3:
                state.commit(digest, "committed", {})
        state.advance(digest_of(b"release 3"), "rolling-back")
        state.fail(digest_of(b"release 3"), "broken", "failed", {})
    with closing(sqlite3.connect(path)) as db:
        for statement in (*statements, f"PRAGMA user_version={NEWER}"):
            db.execute(statement)
        db.commit()
    return path


def test_what_is_understood_is_taken_over_and_the_newer_file_stays(tmp_path: Path) -> None:
    path = newer(tmp_path, "ALTER TABLE release ADD COLUMN extra TEXT")
    before = path.read_bytes()
    with closing(open_state(tmp_path)) as state:
        assert is_beside(state)
        assert state.current == digest_of(b"release 2")
        assert state.previous == digest_of(b"release 1")
        found = [(r.version, r.state, r.reason) for r in state.releases()]
        assert found == [(3, FAILED, "broken"), (2, COMMITTED, ""), (1, COMMITTED, "")]
        assert state.document(state.current) == b"release 2"
        state.put("note", "kept")
        state.check()
    assert path.read_bytes() == before
    with closing(open_state(tmp_path)) as state:
        assert state.get("note") == "kept", "it goes on with what it had"


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE release RENAME TO releases",
        "ALTER TABLE release RENAME COLUMN digest TO id",
        "UPDATE release SET state='resting'",
        "UPDATE release SET version='two'",
        "UPDATE release SET document='text'",
    ],
)
def test_what_is_not_understood_is_left_out(tmp_path: Path, statement: str) -> None:
    newer(tmp_path, statement)
    with closing(open_state(tmp_path)) as state:
        assert (state.current, state.previous, state.releases()) == ("", "", [])
        state.check()


def test_when_the_newer_agent_was_back_in_between_all_is_begun_anew(tmp_path: Path) -> None:
    path = newer(tmp_path)
    with closing(open_state(tmp_path)) as state:
        state.put("note", "too old")
    with closing(sqlite3.connect(path)) as db:
        db.execute("REPLACE INTO meta VALUES ('current', ?)", (digest_of(b"release 1"),))
        db.commit()
    with closing(open_state(tmp_path)) as state:
        assert state.get("note") == ""
        assert state.current == digest_of(b"release 1")


def test_an_interrupted_beginning_is_done_again(tmp_path: Path) -> None:
    newer(tmp_path)
    State(tmp_path / f"state-{SCHEMA}.db").close()
    with closing(open_state(tmp_path)) as state:
        assert state.current == digest_of(b"release 2")


def test_damage_beside_is_begun_anew_and_the_newer_file_stays(tmp_path: Path) -> None:
    path = newer(tmp_path)
    before = path.read_bytes()
    open_state(tmp_path).close()
    (tmp_path / f"state-{SCHEMA}.db").write_bytes(b"garbage" * 1000)
    with closing(open_state(tmp_path)) as state:
        assert state.current == digest_of(b"release 2")
    assert path.read_bytes() == before


def test_damage_that_is_found_later_moves_the_one_beside(tmp_path: Path) -> None:
    settings = {"paths": {"data": str(tmp_path), "run": str(tmp_path / "run")}}
    path = newer(tmp_path)
    before = path.read_bytes()
    with closing(open_state(tmp_path)) as state, state.transaction() as db:
        db.execute("UPDATE release SET version='two'")
    device = Device(config.parse(settings, "test"))
    with device.writer("test"):
        device.state.check()
        assert device.state.current == digest_of(b"release 2")
        assert [event.kind for event in device.state.events()] == ["state-lost"]
    assert path.read_bytes() == before
    assert (tmp_path / f"state-{SCHEMA}.db.damaged").exists()


def test_a_damaged_state_is_not_a_newer_one(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(DamagedStateError):
        open_state(tmp_path)
