"""A TUF repository as plain files, written so that a reader never meets a half of a change.

::

    metadata/   timestamp.json, <n>.snapshot.json, <n>.targets.json, <n>.<channel>.json,
                and every <n>.root.json there ever was
    targets/    <channel>/<sha256>.release.json
    pending.json      a change that waits for signatures, by role; no device asks for it
    repository.json   settings of composeapps-publish

Metadata names are those of consistent snapshots (TUF specification, section 6.2): a published
file never changes, so only ``timestamp.json`` and the next root make a change visible. They come
last. What a change interrupted before that has left is not referred to, and written over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from composeapps import durable
from composeapps.errors import ConfigError, TrustError
from composeapps.publish.directories import exclusive
from composeapps.publish.signing import Draft, Published, chains
from composeapps.release import LIMIT, NAME, Release, check_channel, target_path

_VERSIONED = re.compile(r"([1-9][0-9]{0,15})\.(.+)\.json")
_FILE, _DIRECTORY = 0o644, 0o755


@dataclass
class Publication:
    """What is about to be published."""

    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]
    root: Metadata[Root] | None = None
    roles: dict[str, Metadata[Targets]] = field(default_factory=dict)


class RepoFiles:
    """The directory of one repository."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metadata = directory / "metadata"
        self.targets = directory / "targets"
        self.pending = directory / "pending.json"
        self.settings = directory / "repository.json"

    def create(self) -> None:
        """Make the directories."""
        for path in (self.metadata, self.targets):
            durable.make_dir(path, _DIRECTORY)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other publishers out, and clear what an interrupted one left half written.

        Raises:
            ConfigError: there is no repository.
            BusyError: another composeapps-publish works on it.
        """
        if not self.settings.is_file() or not self.metadata.is_dir():
            raise ConfigError(
                f"{self.directory} is no repository: make one with `composeapps-publish init`"
            )
        with exclusive(self.directory, self.metadata):
            yield

    def load(self) -> Draft:
        """Read the repository, every signature checked.

        Raises:
            TrustError: a file is missing, damaged, or was changed by someone without the keys.
        """
        draft = Draft(self._published())
        for role, value in self._read_pending().items():
            metadata = self._parse(json.dumps(value).encode(), self.pending, _kind(role))
            if not self._is_published(draft.published, role, metadata):
                draft.pending[role] = metadata
        return draft

    def _read_pending(self) -> dict[str, Any]:
        if not self.pending.exists():
            return {}
        try:
            value = json.loads(self.pending.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise TrustError(f"{self.pending} cannot be read: restore or remove it") from error
        if not isinstance(value, dict):
            raise TrustError(f"{self.pending} is damaged: restore or remove it")
        return value

    def _published(self) -> Published:
        found = Published()
        version = 1
        while (path := self._path("root", version)).exists():
            root: Metadata[Root] = self._read(path, Root)
            before = found.root.signed if found.root else root.signed
            if not chains(before, "root", root) or not chains(root.signed, "root", root):
                raise TrustError(f"{path} does not chain to the root before it")
            found.previous, found.root = found.root, root
            version += 1
        path = self.metadata / "timestamp.json"
        if found.root is None or not path.exists():
            return found
        found.timestamp = self._verified(path, "timestamp", Timestamp, found)
        meta = found.timestamp.signed.snapshot_meta
        path = self._path("snapshot", meta.version)
        found.snapshot = self._verified(path, "snapshot", Snapshot, found, meta)
        names = sorted(name.removesuffix(".json") for name in found.snapshot.signed.meta)
        for role in ["targets", *(name for name in names if name != "targets")]:
            meta = found.snapshot.signed.meta[f"{role}.json"]
            path = self._path(role, meta.version)
            found.roles[role] = self._verified(path, role, Targets, found, meta)
        return found

    def _verified(
        self, path: Path, role: str, kind: type[Any], found: Published, meta: MetaFile | None = None
    ) -> Metadata[Any]:
        metadata = self._read(path, kind, meta)
        delegators: list[Root | Targets] = []
        if role in ("timestamp", "snapshot", "targets"):
            # A rotation that was interrupted has published the new root and nothing else yet.
            delegators += [one.signed for one in (found.root, found.previous) if one is not None]
        else:
            check_channel(role)
            delegators.append(found.roles["targets"].signed)
        if not any(chains(delegator, role, metadata) for delegator in delegators):
            raise TrustError(f"{path} is not signed by the keys of {role}: restore it")
        return metadata

    def _read(self, path: Path, kind: type[Any], meta: MetaFile | None = None) -> Metadata[Any]:
        try:
            return self._parse(path.read_bytes(), path, kind, meta)
        except OSError as error:
            raise TrustError(f"{path} cannot be read: {error.strerror}: restore it") from error

    @staticmethod
    def _parse(
        data: bytes, path: Path, kind: type[Any], meta: MetaFile | None = None
    ) -> Metadata[Any]:
        try:
            if meta is not None:
                meta.verify_length_and_hashes(data)
            metadata: Metadata[Any] = Metadata.from_bytes(data)
        except RepositoryError as error:
            raise TrustError(f"{path} is damaged ({error}): restore it") from error
        if not isinstance(metadata.signed, kind) or (
            meta is not None and metadata.signed.version != meta.version
        ):
            raise TrustError(f"{path} holds other metadata than its name says: restore it")
        return metadata

    @staticmethod
    def _is_published(published: Published, role: str, metadata: Metadata[Any]) -> bool:
        known = published.root if role == "root" else published.roles.get(role)
        return known is not None and metadata.signed.version <= known.signed.version

    def _path(self, role: str, version: int) -> Path:
        return self.metadata / f"{version}.{role}.json"

    def save_pending(self, draft: Draft) -> None:
        """Keep a change that waits for signatures, whole or not at all."""
        value = {role: metadata.to_dict() for role, metadata in draft.pending.items()}
        text = json.dumps(value, indent=1, sort_keys=True)
        durable.write_file(self.pending, f"{text}\n".encode(), _FILE)

    def drop_pending(self) -> None:
        """Forget the change that waits for signatures, or that is published now."""
        durable.remove(self.pending)

    def publish(self, draft: Draft, publication: Publication) -> None:
        """Write a complete, verified publication; the old one is valid until the last rename.

        A new root comes after the timestamp where the timestamp also chains to the old root (the
        old keys signed too): then no reader ever meets metadata that its root does not know.
        """
        for role, metadata in publication.roles.items():
            self._write(role, metadata)
        self._write("snapshot", publication.snapshot)
        if publication.root is not None and not _chains_to_old(draft, publication):
            self._write("root", publication.root)
        durable.write_file(
            self.metadata / "timestamp.json", publication.timestamp.to_bytes(), _FILE
        )
        if publication.root is not None:
            self._write("root", publication.root)

    def _write(self, role: str, metadata: Metadata[Any]) -> None:
        path = self._path(role, metadata.signed.version)
        data = metadata.to_bytes()
        if not path.exists() or path.read_bytes() != data:
            durable.write_file(path, data, _FILE)

    def add_release(self, release: Release) -> TargetFile:
        """Write a release document under its hash; nothing refers to it yet."""
        info = TargetFile.from_data(release.target, release.to_bytes(), ["sha256"])
        path = self.targets / info.get_prefixed_paths()[0]
        durable.make_dir(path.parent, _DIRECTORY)
        durable.write_file(path, release.to_bytes(), _FILE)
        return info

    def release(self, channel: str, metadata: Targets) -> Release | None:
        """Return the release that channel metadata lists, or None where it lists none.

        Raises:
            TrustError: its file is missing or was changed.
        """
        info = metadata.targets.get(target_path(channel))
        if info is None:
            return None
        path = self.targets / info.get_prefixed_paths()[0]
        try:
            if path.stat().st_size > LIMIT:
                raise TrustError(f"{path} is larger than a release can be: restore it")
            data = path.read_bytes()
            info.verify_length_and_hashes(data)
        except OSError as error:
            raise TrustError(f"{path} cannot be read: {error.strerror}: restore it") from error
        except LengthOrHashMismatchError as error:
            raise TrustError(f"{path} was changed after it was signed: restore it") from error
        return Release.parse(data, str(path))

    def prune(self, published: Published, keep: int) -> list[Path]:
        """Remove superseded files, never a root, and return them.

        Args:
            keep: versions of each role that stay, for devices in the middle of a look.
        """
        assert published.snapshot is not None
        newest = {
            name.removesuffix(".json"): meta.version
            for name, meta in published.snapshot.signed.meta.items()
        }
        newest["snapshot"] = published.snapshot.signed.version
        removed: list[Path] = []
        used: set[Path] = set()
        for path in sorted(self.metadata.iterdir()):
            match = _VERSIONED.fullmatch(path.name)
            if match is None or match[2] not in newest:
                continue
            if int(match[1]) <= newest[match[2]] - keep:
                removed.append(path)
            elif match[2] != "snapshot":
                metadata: Metadata[Targets] = self._read(path, Targets)
                for info in metadata.signed.targets.values():
                    used.update(self.targets / name for name in info.get_prefixed_paths())
        removed += sorted(set(self.targets.glob(f"*/*.{NAME}")) - used)
        for path in removed:
            durable.remove(path)
        return removed


def _kind(role: str) -> type[Any]:
    if role not in ("root", "targets"):
        check_channel(role)
    return Root if role == "root" else Targets


def _chains_to_old(draft: Draft, publication: Publication) -> bool:
    old = draft.published.root
    if old is None:
        return False
    checked: list[tuple[str, Metadata[Any] | None]] = [
        ("timestamp", publication.timestamp),
        ("snapshot", publication.snapshot),
        ("targets", publication.roles.get("targets") or draft.published.roles.get("targets")),
    ]
    return all(
        metadata is not None and chains(old.signed, role, metadata) for role, metadata in checked
    )
