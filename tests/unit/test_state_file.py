"""The state file: what is damage, what is not, and what is told."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from stateparts import DIGEST, OTHER, bring

from composeapps import state
from composeapps.errors import DamagedStateError, NewerStateError, SpaceError, StateError
from composeapps.state import State


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
