"""The state's transactions: durable, whole or not there at all, and what locks of others do."""

from __future__ import annotations

import itertools
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stateparts import DIGEST, bring

from composeapps import database, state
from composeapps.errors import DamagedStateError, StateError
from composeapps.state import State


def test_another_process_sees_each_change_at_once(db: State, file: Path) -> None:
    second = State(file)
    bring(db, "fetched")
    record = second.release(DIGEST)
    assert record is not None
    assert record.state == "fetched"
    second.advance(DIGEST, "installing")
    assert db.switching() == second.switching()
    second.close()


def test_commits_are_as_durable_as_the_docstring_says(db: State, file: Path) -> None:
    assert db.rows("PRAGMA synchronous")[0][0] == 3, "EXTRA"
    assert db.rows("PRAGMA journal_mode")[0][0] == "delete"
    db.put("a", "1")
    log = file.with_name("strace")
    code = f"from composeapps.state import State\nState(__import__('pathlib').Path({str(file)!r}))"
    program = [sys.executable, "-c", code + ".put('a', '2')"]
    calls = "fsync,fdatasync,unlink,unlinkat,pwrite64,write"
    strace = ["strace", "-f", "-y", "-e", f"trace={calls}", "-o", str(log), *program]
    try:
        subprocess.run(strace, check=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("strace is not installed")
    steps = [line for line in log.read_text().splitlines() if "state.db" in line or "sync(" in line]
    kinds = []
    for line in steps:
        where = "journal" if "state.db-journal" in line else "db" if "state.db" in line else "dir"
        kinds.append(f"{line.split('(')[0].split()[-1].replace('fdata', 'f')} {where}")
    last = [kind for kind, _ in itertools.groupby(kinds)]
    # The journal and its name are on the medium before the file changes; the file is before
    # the journal goes; and the journal's absence is what makes the commit durable.
    written = ["fsync journal", "fsync dir", "pwrite64 journal", "fsync journal"]
    assert last[-8:] == [*written, "pwrite64 db", "fsync db", "unlink journal", "fsync dir"]


KILLED = """
import os, signal, sys
from pathlib import Path
from composeapps.state import State
state = State(Path(sys.argv[1]))
left = int(sys.argv[2])
def count(statement):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
state._db.set_trace_callback(count)
{action}
"""


COMMIT = "state.commit('new', 'committed', {'version': 2})"


FAIL = "state.fail('new', 'why', 'failed', {})"


def statements(file: Path, action: str) -> Iterator[None]:
    """Kill the action's process before each of its SQL statements, and yield after each."""
    original = file.read_bytes()
    for at in range(30):
        file.write_bytes(original)
        file.with_name("state.db-journal").unlink(missing_ok=True)
        program = [sys.executable, "-c", KILLED.replace("{action}", action), str(file), str(at)]
        done = subprocess.run(program, check=False, timeout=60)
        if done.returncode == 0:
            assert at >= 4, "a transaction of one statement was not what was to be tried"
            return
        assert done.returncode == -signal.SIGKILL
        yield
    pytest.fail("the action never ended")


@pytest.mark.parametrize("action", [COMMIT, FAIL], ids=["commit", "fail"])
def test_state_and_event_are_one_transaction(file: Path, action: str) -> None:
    db = State(file)
    bring(db, "starting", "old")
    db.commit("old", "committed", {})
    bring(db, "starting" if action == COMMIT else "rolling-back", "new")
    db.close()
    for _ in statements(file, action):
        db = State(file)
        record = db.release("new")
        assert record is not None
        assert (db.current, db.previous) == ("old", "")
        assert record.state in ("starting", "rolling-back")
        assert len(db.events()) == 1, "no event without the state it tells of"
        db.close()


def test_a_file_that_is_made_is_made_whole(tmp_path: Path) -> None:
    action = "state.close()"
    text = KILLED.replace("state = State(Path(sys.argv[1]))", HOOK).replace("{action}", action)
    for at in range(30):
        file = tmp_path / f"{at}.db"
        done = subprocess.run([sys.executable, "-c", text, str(file), str(at)], check=False)
        db = State(file)
        assert db.releases() == []
        db.check()
        db.close()
        if done.returncode == 0:
            assert at > len(state._TABLES.split(";"))
            return
    pytest.fail("the file was never made")


HOOK = """
import sqlite3
plain = sqlite3.connect
def connect(*arguments, **more):
    db = plain(*arguments, **more)
    db.set_trace_callback(count)
    return db
sqlite3.connect = connect
def count(statement):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
left = int(sys.argv[2])
state = State(Path(sys.argv[1]))
"""


def test_an_interrupted_transaction_changes_nothing(db: State) -> None:
    for error in (KeyboardInterrupt, sqlite3.IntegrityError):
        with pytest.raises((KeyboardInterrupt, StateError)), db.transaction() as connection:
            connection.execute("INSERT INTO image VALUES ('x')")
            raise error
    assert db.images() == set()
    db.note_image("y")
    assert db.images() == {"y"}


def test_a_lock_held_too_long_is_told_and_nothing_is_thrown_away(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY", 0.2)
    db = State(file)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for act in (lambda: db.put("a", "1"), lambda: db.get("a"), lambda: State(file)):
        with pytest.raises(StateError, match="cannot be used: database is locked") as caught:
            act()
        assert not isinstance(caught.value, DamagedStateError)
    other.execute("ROLLBACK")
    other.close()
    db.put("a", "1")
    assert db.get("a") == "1"
    db.close()


def test_a_short_lock_is_waited_for(db: State, file: Path) -> None:
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.2, lambda: other.execute("ROLLBACK")).start()
    begun = time.monotonic()
    db.put("a", "1")
    assert time.monotonic() - begun > 0.1
    other.close()


def test_a_reader_in_the_way_of_a_commit_leaves_the_file_usable(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY", 0.2)
    db = State(file)
    db.put("a", "1")
    reader = sqlite3.connect(file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM meta").fetchall()
    with pytest.raises(StateError, match="locked"):
        db.put("a", "2")
    reader.execute("ROLLBACK")
    reader.close()
    assert db.get("a") == "1"
    db.put("a", "3")
    assert db.get("a") == "3"
    db.close()
