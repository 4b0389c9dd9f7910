"""Which file the state is in: one that a newer agent wrote stays as it is, ours lies beside it.

After a firmware downgrade an older agent meets the state of a newer one. It takes over what it
understands of it (which release is committed, which failed) into a file of its own and works with
that. When the newer agent is back, it finds its file as it left it; when it has changed that file
and the older agent comes again, what the older one had is too old and is begun anew.
"""

from __future__ import annotations

import logging
from pathlib import Path

from composeapps import durable
from composeapps.database import Row, peek
from composeapps.digests import file_digest
from composeapps.errors import DamagedStateError, NewerStateError
from composeapps.state import COMMITTED, FAILED, SCHEMA, State

log = logging.getLogger(__name__)

NAME = "state.db"
#: State key: digest of the newer file that this one was made beside.
MARK = "beside"
_KINDS = {
    "digest": str,
    "channel": str,
    "version": int,
    "state": str,
    "reason": str,
    "attempts": int,
    "changed": float,
    "document": bytes,
}


def open_state(directory: Path) -> State:
    """Open the state, or one beside that of a newer agent; raises as ``State`` does."""
    path = directory / NAME
    try:
        return State(path)
    except NewerStateError as error:
        log.warning("%s, or remove it; until then its own state is kept beside it", error)
    mark = file_digest(path)
    beside = directory / f"state-{SCHEMA}.db"
    try:
        state = State(beside)
    except DamagedStateError:
        pass
    else:
        if state.get(MARK) == mark:
            return state
        state.close()
    for suffix in ("", "-journal", "-wal", "-shm"):
        durable.remove(beside.with_name(beside.name + suffix))
    state = State(beside)
    _take_over(state, path)
    state.put(MARK, mark)  # last: without it all this is done again
    return state


def is_beside(state: State) -> bool:
    """Say whether a newer agent's state lies there, whose releases are not known here."""
    return state.path.name != NAME


def _take_over(state: State, newer: Path) -> None:
    rows = peek(newer, f"SELECT {', '.join(_KINDS)} FROM release")
    rows = [row for row in rows if _is_understood(row)]
    committed = {row["digest"] for row in rows if row["state"] == COMMITTED}
    roles = peek(newer, "SELECT key, value FROM meta WHERE key IN ('current', 'previous')")
    values = [(row["key"], row["value"]) for row in roles if row["value"] in committed]
    with state.transaction() as db:
        db.executemany(
            f"INSERT INTO release ({', '.join(_KINDS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [tuple(row) for row in rows],
        )
        db.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", values)


def _is_understood(row: Row) -> bool:
    if any(type(row[name]) is not kind for name, kind in _KINDS.items()):
        return False
    return row["state"] in (COMMITTED, FAILED)
