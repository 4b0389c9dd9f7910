"""One SQLite file: opened, made durable, its errors told apart. What stands in it is ``state``'s.

``synchronous=EXTRA`` with a rollback journal makes every commit durable, directory included
(SQLite documentation, PRAGMA synchronous).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from composeapps.errors import (
    ComposeAppsError,
    DamagedStateError,
    NewerStateError,
    SpaceError,
    StateError,
)

Connection = sqlite3.Connection
Row = sqlite3.Row

#: Seconds to wait for another process's transaction; none of ours takes longer.
_BUSY = 30.0
#: No agent ever counts so far: a larger number was not written by one.
_LAST_SCHEMA = 1000


class Database:
    """An open file with tables of one schema."""

    def __init__(self, path: Path, tables: str, schema: int) -> None:
        """Open or create the file.

        Args:
            tables: statements that create them, separated by semicolons.
            schema: number of the tables' layout, in the file's ``user_version``.

        Raises:
            DamagedStateError: it is not such a file any more.
            NewerStateError: its schema is a newer one; the file is left as it is.
            StateError: it cannot be opened.
            SpaceError: there is no room for it.
        """
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
        except sqlite3.Error as error:
            raise _explained(path, error) from error
        try:
            self._db.row_factory = sqlite3.Row
            self._open(tables, schema)
        except BaseException:
            self.close()
            raise

    def _open(self, tables: str, schema: int) -> None:
        self.rows("PRAGMA synchronous=EXTRA")
        version = self.rows("PRAGMA user_version")[0][0]
        if version == 0:
            self._create(tables, schema)
        elif schema < version <= _LAST_SCHEMA:
            raise NewerStateError(
                f"{self.path} was written by a newer composeapps (schema {version}, this one knows "
                f"{schema}): install the newer one again"
            )
        elif version != schema:
            raise DamagedStateError(f"{self.path} says that its schema is {version}")

    def _create(self, tables: str, schema: int) -> None:
        with self.transaction() as db:
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in tables.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={schema}")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Do all that is done inside, durably, or nothing of it; raises StateError, SpaceError."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # some errors end it by themselves
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise _explained(self.path, error) from error

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Return what a query finds; raises StateError."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _explained(self.path, error) from error

    def check(self) -> None:
        """Look at every page; raises DamagedStateError where one is not as it was written."""
        found = self.rows("PRAGMA integrity_check(1)")[0][0]
        if found != "ok":
            raise DamagedStateError(f"{self.path}: {found}")


def peek(path: Path, query: str) -> list[sqlite3.Row]:
    """Return what a query finds in a file that may be laid out in another way, and change nothing.

    Nothing where the file does not have it.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        ) as db:
            db.row_factory = sqlite3.Row
            return db.execute(query).fetchall()
    except sqlite3.Error:
        return []


def _explained(path: Path, error: sqlite3.Error) -> ComposeAppsError:
    """Return what an error of SQLite means; only damage lets a file be begun anew."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return SpaceError(f"no room to write {path}: free space on its file system")
    damaged = code in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_ERROR,  # a table or column is missing
    )
    if damaged:
        return DamagedStateError(f"{path} is damaged ({error}): composeapps start begins a new one")
    return StateError(f"{path} cannot be used: {error}")
