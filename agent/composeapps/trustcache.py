"""Trusted metadata on a disk, so that a power cut leaves the old set or the new one.

::

    roots/<version>.root.json      every root after the image's own; only ever added
    current -> sets/<number>       one complete set, replaced by renaming the link
    sets/<number>/metadata/        timestamp.json, snapshot.json, targets.json, <channel>.json
    sets/<number>/targets/<channel>/release.json
    etag.json                      what the server called the set's timestamp

An exported cache, as it lies in a factory image, has the same shape; its ``current`` is a plain
directory and it has no ``etag.json``. Nothing here is trusted when it is read: whoever uses it
verifies it from the image's root on, so a torn, swapped or missing file is fetched again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from composeapps import durable
from composeapps.oci import digest_of
from composeapps.release import LIMIT, target_path
from composeapps.tufclient import Held

#: Root versions read at most; with one a week that is ten years.
ROOTS = 512

_ROOT = re.compile(r"([1-9][0-9]{0,8})\.root\.json")
#: An entity tag (RFC 9110, section 8.8.3) short enough to be kept.
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,200}"')


class TrustCache:
    """One such directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._roots = directory / "roots"
        self._sets = directory / "sets"
        self._current = directory / "current"
        self._etag = directory / "etag.json"

    def read(self, channel: str) -> Held:
        """Return what is held for a channel; what cannot be read is left out."""
        names = ["timestamp.json", "snapshot.json", "targets.json", f"{channel}.json"]
        metadata = {name: _read(self._current / "metadata" / name) for name in names}
        return Held(
            self._read_roots(),
            {name: data for name, data in metadata.items() if data is not None},
            _read(self._current / "targets" / target_path(channel)),
        )

    def _read_roots(self) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        if self._roots.is_dir():
            matches = [_ROOT.fullmatch(path.name) for path in self._roots.iterdir()]
            versions = sorted(int(match[1]) for match in matches if match)
            for version in versions[-ROOTS:]:
                data = _read(self._root(version))
                if data is not None:
                    found[version] = data
        return found

    def _root(self, version: int) -> Path:
        return self._roots / f"{version}.root.json"

    def add_roots(self, roots: Mapping[int, bytes]) -> None:
        """Keep verified roots, durably, oldest first."""
        for version, data in sorted(roots.items()):
            if _read(self._root(version)) != data:
                _make_dir(self.directory)
                _make_dir(self._roots)
                _write(self._root(version), data)

    def replace(self, channel: str, metadata: Mapping[str, bytes], release: bytes) -> None:
        """Make a verified set the current one, in one rename; the same one is left alone."""
        if self.read(channel) == Held(self._read_roots(), metadata, release):
            return
        _make_dir(self.directory)
        _make_dir(self._sets)
        durable.remove_temporaries(self._sets)
        numbers = [int(path.name) for path in self._sets.iterdir() if path.name.isdecimal()]
        new = self._sets / str(max(numbers, default=0) + 1)
        with durable.new_directory(new) as temporary:
            _fill(temporary, channel, metadata, release, 0o700, 0o600)
        _unlink_directory(self._current.with_name(f"{durable.TEMPORARY}{self._current.name}"))
        durable.replace_by_link(self._current, Path(self._sets.name, new.name))
        for path in sorted(self._sets.iterdir()):
            if path != new:
                durable.remove(path)

    def etag(self, url: str) -> str:
        """Return the entity tag the server gave for exactly the held timestamp, or ""."""
        timestamp = _read(self._current / "metadata" / "timestamp.json")
        data = _read(self._etag)
        if timestamp is None or data is None:
            return ""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return ""
        if not isinstance(value, dict) or value.get("url") != url:
            return ""
        tag = value.get("etag")
        same = value.get("timestamp") == digest_of(timestamp)
        return tag if same and isinstance(tag, str) and _ETAG.fullmatch(tag) else ""

    def set_etag(self, url: str, tag: str) -> None:
        """Keep the entity tag of the held timestamp; one that is odd or too long is not kept."""
        timestamp = _read(self._current / "metadata" / "timestamp.json")
        if timestamp is None or self.etag(url) == tag or not _ETAG.fullmatch(tag):
            return
        value = {"url": url, "etag": tag, "timestamp": digest_of(timestamp)}
        _write(self._etag, json.dumps(value, sort_keys=True).encode())


def export(
    directory: Path,
    channel: str,
    roots: Mapping[int, bytes],
    metadata: Mapping[str, bytes],
    release: bytes,
) -> None:
    """Write a verified set for a factory image; the same input gives the same files.

    Args:
        directory: made where it is missing; what it held before of a cache is replaced.
    """
    durable.make_dir(directory, 0o755)
    with durable.new_directory(directory / "roots", 0o755) as temporary:
        temporary.chmod(0o755)
        for version, data in sorted(roots.items()):
            path = temporary / f"{version}.root.json"
            path.write_bytes(data)
            path.chmod(0o644)
    with durable.new_directory(directory / "current", 0o755) as temporary:
        temporary.chmod(0o755)
        _fill(temporary, channel, metadata, release, 0o755, 0o644)


def _fill(
    directory: Path,
    channel: str,
    metadata: Mapping[str, bytes],
    release: bytes,
    directory_mode: int,
    mode: int,
) -> None:
    """Fill a new directory; whoever gives it its final name makes it durable first."""
    target = directory / "targets" / target_path(channel)
    files = {directory / "metadata" / name: data for name, data in metadata.items()}
    for folder in (directory / "metadata", target.parent.parent, target.parent):
        folder.mkdir(directory_mode)
        folder.chmod(directory_mode)
    for path, data in sorted({**files, target: release}.items()):
        path.write_bytes(data)
        path.chmod(mode)


def _make_dir(path: Path) -> None:
    if not path.is_dir() and os.path.lexists(path):
        durable.remove(path)
    durable.make_dir(path)


def _write(path: Path, data: bytes) -> None:
    _unlink_directory(path)
    _unlink_directory(path.with_name(f"{durable.TEMPORARY}{path.name}"))
    durable.write_file(path, data)


def _unlink_directory(path: Path) -> None:
    """Clear the way for a file where damage left a directory."""
    if path.is_dir() and not path.is_symlink():
        durable.remove(path)


def _read(path: Path) -> bytes | None:
    """Return a file's bytes, or None where it cannot be read or is larger than any of ours."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except OSError:  # an I/O error of the medium is a missing file too
        return None
    return data if len(data) <= LIMIT else None
