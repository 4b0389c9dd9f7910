"""From a change to a publication: new versions, expiry, signatures, and what is still missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp

from composeapps import durable
from composeapps.errors import ConfigError
from composeapps.publish.repofiles import Publication, RepoFiles
from composeapps.publish.signing import ONLINE, Draft, Missing, chains
from composeapps.tufclient import CREATED, TIME_FORMAT

#: Layout of repository.json.
SCHEMA = 1


@dataclass(frozen=True)
class Expiry:
    """Days until metadata has to be signed again; a channel counts as targets.

    A device that sleeps longer misses nothing: only the newest metadata is judged by it.
    """

    root: int = 730
    targets: int = 365
    snapshot: int = 30
    timestamp: int = 7

    def check(self, where: str) -> None:
        """Raise ConfigError where a number of days makes no sense."""
        for name, days in vars(self).items():
            if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= 36_500:
                raise ConfigError(f"{where}: expiry of {name} has to be 1 to 36500 days")


@dataclass(frozen=True)
class Outcome:
    """What came of a command."""

    #: False where the change waits in ``pending.json`` for the missing signatures.
    published: bool
    missing: tuple[Missing, ...] = ()
    #: Version of the release that the command made; 0 for other commands.
    version: int = 0


def now() -> datetime:
    """Return the time, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def save_settings(files: RepoFiles, expiry: Expiry) -> None:
    """Write repository.json."""
    text = json.dumps({"schema": SCHEMA, "expiry": vars(expiry)}, indent=1, sort_keys=True)
    durable.write_file(files.settings, f"{text}\n".encode(), 0o644)


def load_settings(files: RepoFiles) -> Expiry:
    """Read repository.json; raises ConfigError."""
    try:
        value = json.loads(files.settings.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{files.settings} cannot be read: {error}") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise ConfigError(f"{files.settings} has another layout than this composeapps-publish")
    days = value.get("expiry")
    if not isinstance(days, dict) or not days.keys() <= {one.name for one in fields(Expiry)}:
        raise ConfigError(f"{files.settings}: expiry has to name days for roles")
    expiry = Expiry(**days)
    expiry.check(str(files.settings))
    return expiry


@dataclass
class Editor:
    """One change of a repository, under its lock."""

    files: RepoFiles
    draft: Draft
    expiry: Expiry
    clock: Callable[[], datetime] = field(default=now)

    def root(self) -> Root:
        """Return the next root, to be changed."""
        root: Root = self._edit("root").signed
        return root

    def role(self, name: str) -> Targets:
        """Return the next ``targets`` or channel metadata, to be changed."""
        self.draft.role(name)
        targets: Targets = self._edit(name).signed
        return targets

    def add(self, name: str, signed: Root | Targets) -> None:
        """Add the first metadata of a role."""
        self._date(name, signed)
        self.draft.pending[name] = Metadata(signed)

    def _edit(self, name: str) -> Metadata[Any]:
        if name not in self.draft.pending:
            published = self.draft.published
            old: Metadata[Any] | None = (
                published.root if name == "root" else published.roles.get(name)
            )
            assert old is not None
            self.draft.pending[name] = self._next(name, old)
        return self.draft.pending[name]

    def _next(self, name: str, old: Metadata[Any]) -> Metadata[Any]:
        new: Metadata[Any] = Metadata.from_bytes(old.to_bytes())
        new.signatures.clear()
        new.signed.version += 1
        self._date(name, new.signed)
        return new

    def _date(self, name: str, signed: Signed) -> None:
        days = getattr(self.expiry, name, self.expiry.targets)
        signed.expires = self.clock() + timedelta(days=days)

    def finish(self, signers: Sequence[Signer], version: int = 0) -> Outcome:
        """Sign the change, and publish it where no signature is missing.

        Raises:
            ConfigError: none of the signers may sign any of it, or it has waited too long.
        """
        draft = self.draft
        touched = [*draft.pending, *ONLINE]
        wanted = {keyid for role in touched for keyid in draft.keys(role)}
        if signers and not any(one.public_key.keyid in wanted for one in signers):
            raise ConfigError(f"none of the keys signs any of {', '.join(touched)}")
        for role, metadata in draft.pending.items():
            if metadata.signed.is_expired(self.clock()):
                expired = metadata.signed.expires.strftime(TIME_FORMAT)
                raise ConfigError(
                    f"the change of {role} waited for signatures beyond its expiry ({expired}): "
                    "discard it and begin again"
                )
            draft.sign(role, metadata, signers)
        publication, missing = self.publication(signers)
        # First, because a publication that is interrupted goes on from it.
        self.files.save_pending(draft)
        if missing:
            return Outcome(False, tuple(missing), version)
        self.files.publish(draft, publication)
        self.files.drop_pending()
        return Outcome(True, (), version)

    def publication(self, signers: Sequence[Signer]) -> tuple[Publication, list[Missing]]:
        """Return the whole change with new online metadata, and what it lacks."""
        draft = self.draft
        found = [
            draft.missing(role, metadata)
            for role, metadata in {**draft.published.roles, **draft.pending}.items()
        ]
        snapshot = self._snapshot(signers)
        timestamp = self._timestamp(snapshot, signers)
        found += [draft.missing("snapshot", snapshot), draft.missing("timestamp", timestamp)]
        roles = {role: one for role, one in draft.pending.items() if role != "root"}
        publication = Publication(snapshot, timestamp, draft.pending.get("root"), roles)
        return publication, [one for one in found if one is not None]

    def _snapshot(self, signers: Sequence[Signer]) -> Metadata[Snapshot]:
        draft, old = self.draft, self.draft.published.snapshot
        changed = {role: one for role, one in draft.pending.items() if role != "root"}
        if old is not None and not changed and not self._is_due(old):
            return old
        new = self._next("snapshot", old) if old is not None else Metadata(Snapshot(meta={}))
        self._date("snapshot", new.signed)
        for role, metadata in changed.items():
            data = metadata.to_bytes()
            version = metadata.signed.version
            new.signed.meta[f"{role}.json"] = MetaFile.from_data(version, data, ["sha256"])
        draft.sign("snapshot", new, signers)
        return new

    def _is_due(self, snapshot: Metadata[Snapshot]) -> bool:
        half = timedelta(days=self.expiry.snapshot) / 2
        return snapshot.signed.expires < self.clock() + half or not chains(
            self.draft.root, "snapshot", snapshot
        )

    def _timestamp(
        self, snapshot: Metadata[Snapshot], signers: Sequence[Signer]
    ) -> Metadata[Timestamp]:
        published = self.draft.published
        new = (
            self._next("timestamp", published.timestamp)
            if published.timestamp is not None
            else Metadata(Timestamp())
        )
        self._date("timestamp", new.signed)
        new.signed.unrecognized_fields[CREATED] = self.clock().strftime(TIME_FORMAT)
        if snapshot is not published.snapshot:
            version, data = snapshot.signed.version, snapshot.to_bytes()
            new.signed.snapshot_meta = MetaFile.from_data(version, data, ["sha256"])
        self.draft.sign("timestamp", new, signers)
        return new
