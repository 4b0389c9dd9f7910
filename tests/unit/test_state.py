"""The state file: what may follow what, one durable transaction each, and any damage told apart."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composeapps import database, state
from composeapps.errors import DamagedStateError, NewerStateError, SpaceError, StateError
from composeapps.state import State

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
#: From each state, the states that a release may go to; anything else is refused.
TABLE = {
    "pending": "pending fetching failed",
    "fetching": "fetching fetched failed pending",
    "fetched": "fetched fetching installing failed",
    "installing": "installing starting rolling-back",
    "starting": "starting installing committed rolling-back",
    "rolling-back": "rolling-back failed",
    "committed": "committed installing",
    "failed": "failed pending",
}
#: How to get to each state by allowed steps.
WAYS = {
    "pending": "",
    "fetching": "fetching",
    "fetched": "fetching fetched",
    "installing": "fetching fetched installing",
    "starting": "fetching fetched installing starting",
    "rolling-back": "fetching fetched installing rolling-back",
    "committed": "fetching fetched installing starting committed",
    "failed": "failed",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def db(file: Path) -> Iterator[State]:
    opened = State(file)
    yield opened
    opened.close()


def bring(db: State, wanted: str, digest: str = DIGEST) -> None:
    """Take a new release to a state."""
    db.add_release(digest, "stable", 1, b"document")
    for step in WAYS[wanted].split():
        db.advance(digest, step)


def test_every_state_and_no_other_is_in_the_table() -> None:
    assert set(TABLE) == set(state.ALLOWED)
    assert sorted(state.SWITCHING) == ["installing", "rolling-back", "starting"]


@pytest.mark.parametrize(("before", "after"), list(itertools.product(TABLE, TABLE)))
def test_every_step_is_allowed_or_refused(db: State, before: str, after: str) -> None:
    bring(db, before)
    if after in TABLE[before].split():
        db.advance(DIGEST, after, "why")
    else:
        with pytest.raises(StateError, match=f"{DIGEST} cannot go from {before} to {after}"):
            db.advance(DIGEST, after, "why")
    record = db.release(DIGEST)
    assert record is not None
    allowed = after in TABLE[before].split()
    assert record.state == (after if allowed else before)
    assert record.reason == ("why" if allowed else "")


def test_a_release_that_nobody_knows_goes_nowhere(db: State) -> None:
    with pytest.raises(StateError, match="cannot go from unknown to fetching"):
        db.advance(DIGEST, "fetching")
    with pytest.raises(StateError, match="cannot go from unknown to committed"):
        db.commit(DIGEST, "committed", {})
    assert db.events() == []
    assert db.count_attempt(DIGEST) == 0
    assert db.release(DIGEST) is None
    assert db.document(DIGEST) is None


def test_a_known_release_is_not_made_pending_again(db: State) -> None:
    bring(db, "starting")
    record = db.add_release(DIGEST, "other", 7, b"other")
    assert (record.state, record.channel, record.version) == ("starting", "stable", 1)
    assert db.document(DIGEST) == b"document"


def test_commit_moves_current_to_previous_and_counts_anew(db: State) -> None:
    bring(db, "starting")
    assert [db.count_attempt(DIGEST), db.count_attempt(DIGEST)] == [1, 2]
    event = db.commit(DIGEST, "committed", {"version": 1})
    assert (db.current, db.previous) == (DIGEST, "")
    bring(db, "starting", OTHER)
    db.commit(OTHER, "committed", {})
    assert (db.current, db.previous) == (OTHER, DIGEST)
    for step in ("installing", "starting"):
        db.advance(OTHER, step)
    db.commit(OTHER, "committed", {})
    assert (db.current, db.previous) == (OTHER, DIGEST), "committed again, nothing moves"
    record = db.release(DIGEST)
    assert record is not None
    assert (record.state, record.attempts) == ("committed", 0)
    assert db.events()[0] == event


def test_a_failure_is_remembered_until_retry(db: State) -> None:
    bring(db, "rolling-back")
    db.count_attempt(DIGEST)
    event = db.fail(DIGEST, "it crashed", "failed", {"log": "x"})
    record = db.release(DIGEST)
    assert record is not None
    assert (record.state, record.reason, record.attempts) == ("failed", "it crashed", 1)
    assert db.events(unsent=True) == [event]
    assert db.switching() is None
    db.retry(DIGEST)
    record = db.release(DIGEST)
    assert record is not None
    assert (record.state, record.reason, record.attempts) == ("pending", "", 0)
    bring(db, "committed", OTHER)
    with pytest.raises(StateError, match="cannot go from committed to pending"):
        db.retry(OTHER)


def test_switching_names_the_release_under_way(db: State) -> None:
    bring(db, "committed", OTHER)
    assert db.switching() is None
    for wanted in ("installing", "starting", "rolling-back"):
        db.forget_release(DIGEST)
        bring(db, wanted)
        found = db.switching()
        assert found is not None
        assert found.digest == DIGEST


def test_releases_are_listed_newest_first(db: State) -> None:
    for version in (2, 10, 1):
        db.add_release(f"sha256:{version:064}", "stable", version, b"")
    assert [record.version for record in db.releases()] == [10, 2, 1]


def test_values_snapshots_and_images(db: State) -> None:
    assert db.get("target", "none") == "none"
    db.put("target", DIGEST)
    db.put("target", OTHER)
    assert db.get("target") == OTHER
    db.put("target", "")
    assert db.get("target", "none") == "none"
    db.set_snapshot("c1", Path("/a/fs"))
    db.set_snapshot("c2", Path("/b/fs"))
    db.set_snapshot("c1", Path("/c/fs"))
    assert db.snapshots() == {"c1": Path("/c/fs"), "c2": Path("/b/fs")}
    db.forget_snapshots(["c1", "unknown"])
    assert set(db.snapshots()) == {"c2"}
    db.forget_snapshots()
    assert db.snapshots() == {}
    db.note_image("a")
    db.note_image("a")
    db.note_image("b")
    db.forget_image("a")
    assert db.images() == {"b"}


def test_events_stay_until_sent_and_then_the_newest_stay(db: State) -> None:
    events = [db.add_event("kind", {"number": number}) for number in range(6)]
    assert len({event.id for event in events}) == 6
    assert db.events(unsent=True, limit=2) == events[:2]
    db.mark_sent([event.id for event in events[:5]], keep=3)
    left = db.events()
    assert [event.body["number"] for event in left] == [3, 4, 5]
    assert [event.sent for event in left] == [True, True, False]
    db.mark_sent([], keep=0)
    assert [event.body["number"] for event in db.events()] == [5], "what is not sent is not dropped"


@given(st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.none()))
def test_any_reason_and_any_body_can_be_kept(text: str, body: dict[str, str | int | None]) -> None:
    db = State(Path(":memory:"))
    db.add_release(DIGEST, text, 1, text.encode())
    db.fail(DIGEST, text, text, body)
    record = db.release(DIGEST)
    assert record is not None
    assert record.reason == text
    assert db.events()[0].body == body
    db.close()


def test_half_characters_of_a_server_do_not_stop_a_failure_from_being_written(db: State) -> None:
    db.add_release(DIGEST, "stable", 1, b"")
    db.fail(DIGEST, "no image for \udc80\ud800", "failed", {"reason": "\ud800"})
    record = db.release(DIGEST)
    assert record is not None
    assert (record.state, record.reason) == ("failed", "no image for ??")


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


def make(file: Path) -> bytes:
    """Make a state file with something in every table, and return its bytes."""
    db = State(file)
    bring(db, "starting")
    db.commit(DIGEST, "committed", {"log": "x" * 3000})
    bring(db, "failed", OTHER)
    db.set_snapshot("c", Path("/fs"))
    db.note_image("i")
    db.close()
    return file.read_bytes()


@pytest.mark.parametrize(
    "content",
    [b"garbage" * 1000, b"SQLite format 3\x00", b"SQLite format 3\x00" + b"\xff" * 4096,
     b"\x00" * 8192],
    ids=["text", "magic", "magic and ones", "zeroes"],
)  # fmt: skip
def test_what_is_no_state_file_is_damage(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(DamagedStateError, match=r"state\.db is damaged .*: composeapps start"):
        State(file).check()
    assert file.read_bytes() == content, "it is left as it is"


@pytest.mark.parametrize("content", [b"", b"x"])
def test_a_file_with_nothing_in_it_is_a_new_one(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    db = State(file)
    db.check()
    assert db.releases() == []
    db.close()


def test_a_file_cut_off_anywhere_is_damage_or_whole(file: Path) -> None:
    whole = make(file)
    for size in range(512, len(whole), 512):
        file.write_bytes(whole[:size])
        with pytest.raises(DamagedStateError):
            _use(file)


def test_pages_lost_anywhere_are_damage(file: Path) -> None:
    whole = make(file)
    for start in range(0, len(whole), 4096):
        for fill in (b"\x00", b"\xff"):
            file.write_bytes(whole[:start] + fill * 4096 + whole[start + 4096 :])
            with pytest.raises(DamagedStateError):
                _use(file)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_are_damage_or_do_no_harm(file: Path, seed: int) -> None:
    """SQLite has no checksums: what cannot be seen must at least not be a traceback."""
    import random

    whole = make(file)
    rng = random.Random(seed)
    for _ in range(150):
        position, bit = rng.randrange(len(whole)), rng.randrange(8)
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        file.write_bytes(damaged)
        with contextlib.suppress(DamagedStateError):
            _use(file)


def _use(file: Path) -> None:
    db = State(file)
    try:
        db.check()
        db.switching()
        db.events()
        db.snapshots()
        db.images()
        for record in db.releases():
            db.document(record.digest)
            with contextlib.suppress(StateError):
                db.advance(record.digest, "installing")
        db.add_event("x", {})
    finally:
        db.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE release SET state='bananas'",
        "UPDATE release SET version='x'",
        "UPDATE release SET attempts='x'",
        "UPDATE release SET changed='x'",
        "UPDATE release SET state=x'ff00'",
        "UPDATE release SET channel=CAST(x'ff' AS TEXT)",
        "UPDATE event SET body='{'",
        "UPDATE event SET body=x'ff'",
        "UPDATE event SET sent='x'",
        "DROP TABLE meta",
        "DROP TABLE snapshot",
        "ALTER TABLE release DROP COLUMN changed",
        "PRAGMA user_version=-1",
        "PRAGMA user_version=16777217",
    ],
)
def test_values_that_nobody_wrote_are_damage(file: Path, change: str) -> None:
    make(file)
    raw = sqlite3.connect(file, isolation_level=None)
    raw.execute(change)
    raw.close()
    with pytest.raises(DamagedStateError):
        _use(file)


def test_a_state_that_nobody_wrote_leads_nowhere(db: State) -> None:
    bring(db, "pending")
    with db.transaction() as connection:
        connection.execute("UPDATE release SET state='bananas'")
    with pytest.raises(StateError, match="cannot go from bananas to fetching"):
        db.advance(DIGEST, "fetching")


def test_an_index_that_tells_of_something_else_is_damage(file: Path) -> None:
    make(file)
    db = State(file)
    name = db.events()[0].id.encode()
    db.close()
    content = file.read_bytes()
    assert content.count(name) == 2, "in the table and in its index"
    file.write_bytes(content.replace(name, name[::-1], 1))
    with pytest.raises(DamagedStateError):
        _use(file)


@pytest.mark.parametrize("schema", [state.SCHEMA + 1, 1000])
def test_a_newer_agents_file_is_left_as_it_is(file: Path, schema: int) -> None:
    make(file)
    raw = sqlite3.connect(file)
    raw.execute(f"PRAGMA user_version={schema}")
    raw.close()
    content = file.read_bytes()
    message = f"newer composeapps \\(schema {schema}, this one knows 1\\): install the newer"
    with pytest.raises(NewerStateError, match=message):
        State(file)
    assert file.read_bytes() == content


def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone" / "state.db"):
        with pytest.raises(StateError, match="cannot be used: unable to open") as caught:
            State(path)
        assert not isinstance(caught.value, DamagedStateError)


def as_nobody(action: Callable[[], None]) -> str:
    """Do something as a user who may write nothing here; return the StateError it gave."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "no error"
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            action()
        except StateError as error:
            text = f"{type(error).__name__}: {error}"
        except BaseException as error:  # noqa: BLE001 - the child tells it and ends
            text = f"traceback: {error!r}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as pipe:
        return pipe.read()


def test_a_file_that_may_only_be_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = Path("/var/tmp") / f"composeapps-state-{os.getpid()}"
    directory.mkdir(mode=0o755)
    file = directory / "state.db"
    try:
        make(file)
        file.chmod(0o444)
        directory.chmod(0o555)
        text = as_nobody(lambda: State(file).put("a", "1"))
        assert text.startswith("StateError: ")
        assert "readonly" in text
        assert as_nobody(lambda: print(State(file).current, end="")) == "no error"
        assert json.dumps(as_nobody(lambda: State(directory / "new.db").close())).count("unable")
    finally:
        directory.chmod(0o755)
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()


def test_no_room_is_told_and_is_no_damage(db: State) -> None:
    pages = db.rows("PRAGMA page_count")[0][0]
    db.rows(f"PRAGMA max_page_count={pages}")
    with pytest.raises(SpaceError, match=r"no room to write .*state\.db: free space"):
        for number in range(100):
            db.add_event("kind", {"log": f"{number}" + "x" * 4000})
    db.rows("PRAGMA max_page_count=100000")
    db.add_event("kind", {})
    db.check()
