"""What the device knows, in one SQLite file: releases and their states, events, engine snapshots.

Every change is one durable transaction. A state is written before its work is done.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composeapps.database import Connection, Database
from composeapps.errors import DamagedStateError, StateError

#: Grows with every change that an older agent could not live with.
SCHEMA = 1
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE release (
    digest TEXT PRIMARY KEY, channel TEXT NOT NULL, version INTEGER NOT NULL,
    state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0,
    changed REAL NOT NULL, document BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE event (
    id TEXT PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE snapshot (
    chain_id TEXT PRIMARY KEY, path TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE image (name TEXT PRIMARY KEY) WITHOUT ROWID
"""

_RECORD = "digest, channel, version, state, reason, attempts, changed"

PENDING = "pending"
FETCHING = "fetching"
FETCHED = "fetched"
INSTALLING = "installing"
STARTING = "starting"
COMMITTED = "committed"
ROLLING_BACK = "rolling-back"
FAILED = "failed"

#: From each state, where a release may go. Work of a state can be done again, so each may repeat.
ALLOWED: Mapping[str, frozenset[str]] = {
    PENDING: frozenset({PENDING, FETCHING, FAILED}),
    FETCHING: frozenset({FETCHING, FETCHED, FAILED, PENDING}),
    FETCHED: frozenset({FETCHED, FETCHING, INSTALLING, FAILED}),
    INSTALLING: frozenset({INSTALLING, STARTING, ROLLING_BACK}),
    STARTING: frozenset({STARTING, INSTALLING, COMMITTED, ROLLING_BACK}),
    ROLLING_BACK: frozenset({ROLLING_BACK, FAILED}),
    COMMITTED: frozenset({COMMITTED, INSTALLING}),
    FAILED: frozenset({FAILED, PENDING}),
}
#: States in which an update is under way and the device may be between two releases.
SWITCHING = frozenset({INSTALLING, STARTING, ROLLING_BACK})
#: Kinds of events that tell how an update ended: they stay until they are delivered (law L4).
OUTCOMES = ("committed", "failed")
#: Of the other events so many of the newest stay, though nobody takes them: an app that is never
#: healthy makes one each quarter of an hour, with its log.
UNSENT = 1000


@dataclass(frozen=True)
class ReleaseRecord:
    """One release the device has met."""

    digest: str
    channel: str
    version: int
    state: str
    reason: str
    #: Starts of its switch that were begun; interrupted ones count.
    attempts: int
    changed: float


@dataclass(frozen=True)
class Event:
    """One thing to report, at least once, under one id."""

    id: str
    time: float
    kind: str
    body: Mapping[str, Any]
    sent: bool


class State(Database):
    """The open state file; every method is one transaction."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; raises as ``Database`` does."""
        super().__init__(path, _TABLES, SCHEMA)

    def check(self) -> None:
        """Read everything once; raises DamagedStateError where it is not as it was written."""
        super().check()
        for record in self.releases():
            numbers = (type(record.version), type(record.attempts), type(record.changed))
            if record.state not in ALLOWED or numbers != (int, int, float):
                raise DamagedStateError(f"{self.path}: release {record.digest!r} is damaged")
        for read in (self.events, self.snapshots, self.images, lambda: self.get("current")):
            read()

    def get(self, key: str, default: str = "") -> str:
        """Return one remembered value."""
        rows = self.rows("SELECT value FROM meta WHERE key=?", key)
        return str(rows[0]["value"]) if rows else default

    def put(self, key: str, value: str) -> None:
        """Remember one value; an empty one is forgotten."""
        with self.transaction() as db:
            _put(db, key, value)

    @property
    def current(self) -> str:
        """Digest of the committed release that the device runs, or empty."""
        return self.get("current")

    @property
    def previous(self) -> str:
        """Digest of the release that ran before, or empty."""
        return self.get("previous")

    def release(self, digest: str) -> ReleaseRecord | None:
        """Return what is known of a release."""
        rows = self.rows(f"SELECT {_RECORD} FROM release WHERE digest=?", digest)
        return ReleaseRecord(**rows[0]) if rows else None

    def document(self, digest: str) -> bytes | None:
        """Return the copy of a release's document, unverified."""
        rows = self.rows("SELECT document FROM release WHERE digest=?", digest)
        return bytes(rows[0]["document"]) if rows else None

    def releases(self) -> list[ReleaseRecord]:
        """Return every known release, newest version first."""
        rows = self.rows(f"SELECT {_RECORD} FROM release ORDER BY version DESC, digest")
        return [ReleaseRecord(**row) for row in rows]

    def switching(self) -> ReleaseRecord | None:
        """Return the release that the device was switching to (or back from), if any."""
        return next((r for r in self.releases() if r.state in SWITCHING), None)

    def add_release(
        self, digest: str, channel: str, version: int, document: bytes
    ) -> ReleaseRecord:
        """Remember a release as pending; one that is known already is left as it is.

        Args:
            document: its bytes, kept as a second copy.
        """
        with self.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO release (digest, channel, version, state, changed, document)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (digest, channel, version, PENDING, time.time(), document),
            )
        record = self.release(digest)
        assert record is not None  # just written
        return record

    def advance(self, digest: str, state: str, reason: str = "") -> None:
        """Write a release's next state, before its work; raises StateError if not allowed."""
        with self.transaction() as db:
            _advance(db, digest, state, reason)

    def count_attempt(self, digest: str) -> int:
        """Count one more start of a release's switch and return how many there were."""
        with self.transaction() as db:
            db.execute("UPDATE release SET attempts=attempts+1 WHERE digest=?", (digest,))
        record = self.release(digest)
        return record.attempts if record else 0

    def commit(self, digest: str, kind: str, body: Mapping[str, Any]) -> Event:
        """Make a release the current one, with the event to report, in one transaction."""
        with self.transaction() as db:
            _advance(db, digest, COMMITTED, "")
            db.execute("UPDATE release SET attempts=0 WHERE digest=?", (digest,))
            # What ran until now; a release that something stood in for is damaged.
            ran = db.execute(
                "SELECT value FROM meta WHERE key IN ('stand-in', 'current') ORDER BY key DESC"
            ).fetchone()
            if ran is not None and ran["value"] != digest:
                _put(db, "previous", str(ran["value"]))
            _put(db, "current", digest)
            _put(db, "stand-in", "")
            return _add_event(db, kind, body)

    def fail(self, digest: str, reason: str, kind: str, body: Mapping[str, Any]) -> Event:
        """Write that a release failed, with the event to report, in one transaction."""
        with self.transaction() as db:
            _advance(db, digest, FAILED, reason)
            return _add_event(db, kind, body)

    def retry(self, digest: str) -> None:
        """Allow a failed release to be tried again."""
        with self.transaction() as db:
            _advance(db, digest, PENDING, "")
            db.execute("UPDATE release SET attempts=0 WHERE digest=?", (digest,))

    def forget_release(self, digest: str) -> None:
        """Forget a release that neither runs nor has to be remembered as failed."""
        with self.transaction() as db:
            db.execute("DELETE FROM release WHERE digest=?", (digest,))

    def add_event(self, kind: str, body: Mapping[str, Any]) -> Event:
        """Write an event to report."""
        with self.transaction() as db:
            return _add_event(db, kind, body)

    def events(self, *, unsent: bool = False, limit: int = 1000) -> list[Event]:
        """Return events, oldest first."""
        where = "WHERE sent=0" if unsent else ""
        rows = self.rows(f"SELECT * FROM event {where} ORDER BY rowid LIMIT ?", limit)
        try:
            return [
                Event(row["id"], row["time"], row["kind"], json.loads(row["body"]), row["sent"] > 0)
                for row in rows
            ]
        except (ValueError, TypeError) as error:
            raise DamagedStateError(f"{self.path}: an event is damaged: {error}") from error

    def mark_sent(self, ids: list[str], keep: int = 1000) -> None:
        """Write that events were delivered; of the delivered ones the newest ``keep`` stay."""
        with self.transaction() as db:
            db.executemany("UPDATE event SET sent=1 WHERE id=?", [(item,) for item in ids])
            db.execute(
                "DELETE FROM event WHERE sent=1 AND rowid <= (SELECT max(rowid) FROM event) - ?",
                (keep,),
            )

    def snapshots(self) -> dict[str, Path]:
        """Return, by chain ID, the ``fs`` path of each snapshot that the engine was told."""
        rows = self.rows("SELECT * FROM snapshot WHERE path != ''")
        return {row["chain_id"]: Path(row["path"]) for row in rows}

    def set_snapshot(self, chain_id: str, path: Path) -> None:
        """Remember where a told snapshot's link lies."""
        with self.transaction() as db:
            db.execute("REPLACE INTO snapshot VALUES (?, ?)", (chain_id, str(path)))

    def leave_snapshots(self, chain_ids: list[str]) -> None:
        """Note that told snapshots are not used any more, before the engine may take them."""
        with self.transaction() as db:
            rows = [(item,) for item in chain_ids]
            db.executemany("UPDATE snapshot SET path='' WHERE chain_id=?", rows)

    def left_snapshots(self) -> list[str]:
        """Return the chain IDs of snapshots that are left and not forgotten."""
        return [row["chain_id"] for row in self.rows("SELECT * FROM snapshot WHERE path = ''")]

    def images(self) -> set[str]:
        """Return the names of the images that the engine was told."""
        return {row["name"] for row in self.rows("SELECT name FROM image")}

    def note_image(self, name: str) -> None:
        """Remember an image name before the engine is told it."""
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO image VALUES (?)", (name,))

    def forget_image(self, name: str) -> None:
        """Forget an image name after the engine forgot it."""
        with self.transaction() as db:
            db.execute("DELETE FROM image WHERE name=?", (name,))

    def forget_snapshots(self, chain_ids: list[str] | None = None) -> None:
        """Forget told snapshots, all of them without an argument."""
        with self.transaction() as db:
            if chain_ids is None:
                db.execute("DELETE FROM snapshot")
            else:
                rows = [(item,) for item in chain_ids]
                db.executemany("DELETE FROM snapshot WHERE chain_id=?", rows)


def _put(db: Connection, key: str, value: str) -> None:
    if value:
        db.execute("REPLACE INTO meta VALUES (?, ?)", (key, value))
    else:
        db.execute("DELETE FROM meta WHERE key=?", (key,))


def _advance(db: Connection, digest: str, state: str, reason: str) -> None:
    row = db.execute("SELECT state FROM release WHERE digest=?", (digest,)).fetchone()
    if row is None or state not in ALLOWED.get(row["state"], ()):
        found = row["state"] if row else "unknown"
        raise StateError(f"release {digest} cannot go from {found} to {state}")
    db.execute(
        "UPDATE release SET state=?, reason=?, changed=? WHERE digest=?",
        # What a server said may hold half characters, which UTF-8 has no bytes for.
        (state, reason.encode("utf-8", "replace").decode(), time.time(), digest),
    )


def _add_event(db: Connection, kind: str, body: Mapping[str, Any]) -> Event:
    event = Event(str(uuid.uuid4()), time.time(), kind, dict(body), sent=False)
    db.execute(
        "INSERT INTO event VALUES (?, ?, ?, ?, 0)",
        (event.id, event.time, event.kind, json.dumps(event.body, sort_keys=True)),
    )
    db.execute(
        f"DELETE FROM event WHERE kind NOT IN ({','.join('?' * len(OUTCOMES))})"
        " AND rowid <= (SELECT max(rowid) FROM event) - ?",
        (*OUTCOMES, UNSENT),
    )
    return event
