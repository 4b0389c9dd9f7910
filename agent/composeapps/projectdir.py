"""Unpack an app artifact into a new, empty directory; everything in it is hostile.

The tar is as ``composeapps-publish`` writes it and nothing else: POSIX 1003.1-1988 ``ustar``, plain
files, directories and relative symbolic links, each once, parents first. What other tar programs
may write as well (long-name extensions, hard links, devices, sparse files, owners, set-user-ID
bits) has no use here, so it is refused or dropped instead of interpreted. There is no compression:
nothing unpacks to more than its size.

The caller makes the directory, syncs it and renames it (``durable.new_directory`` does that).
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from composeapps.artifact import Artifact, check_name
from composeapps.errors import ConfigError, IntegrityError, SpaceError
from composeapps.oci import Descriptor

#: Entries of a tar; one app's configuration is a handful of files.
ENTRY_LIMIT = 20_000
CHUNK = 1024 * 1024
_BLOCK = 512
_OCTAL = re.compile(rb"[0-7]+")

#: Opens one blob of the artifact for reading; its bytes need no trust.
OpenBlob = Callable[[Descriptor], BinaryIO]


@dataclass(frozen=True)
class _Entry:
    name: str
    #: ``0`` file, ``2`` symbolic link, ``5`` directory (ustar, ``typeflag``).
    kind: str
    size: int
    executable: bool
    link: str


class _Verified:
    """Reads a blob to its end and no further, hashing; ``finish`` says whether it was right."""

    def __init__(self, file: BinaryIO, blob: Descriptor, what: str) -> None:
        self._file = file
        self._blob = blob
        self._hasher = hashlib.sha256()
        self._left = blob.size
        self._what = what

    def read(self, amount: int) -> bytes:
        data = self._file.read(min(amount, self._left))
        self._left -= len(data)
        self._hasher.update(data)
        return data

    def exactly(self, amount: int) -> bytes:
        data = self.read(amount)
        if len(data) != amount:
            raise IntegrityError(f"{self._what}: its tar ends too early")
        return data

    def finish(self) -> None:
        while self.read(CHUNK):
            pass
        digest = f"sha256:{self._hasher.hexdigest()}"
        if self._left or self._file.read(1) or digest != self._blob.digest:
            raise IntegrityError(f"{self._what}: blob {self._blob.digest} is damaged")


def unpack(artifact: Artifact, open_blob: OpenBlob, directory: Path, what: str) -> None:
    """Write an artifact's files into a directory that exists and is empty.

    Nothing is written outside of ``directory``. Files get mode 0644 or 0755, directories 0755.

    Args:
        open_blob: gives each of ``artifact.blobs``; digests and sizes are checked here.
        what: how an error names the artifact.

    Raises:
        ConfigError: it holds a file that a project directory must not hold.
        IntegrityError: a blob is damaged, or its tar is.
        SpaceError: the file system is full.
    """
    tree = _Tree(directory, what)
    try:
        if artifact.tar is not None:
            with open_blob(artifact.tar) as file:
                _unpack_tar(_Verified(file, artifact.tar, what), tree, what)
        for layer in (*artifact.compose, *artifact.beside):
            with open_blob(layer.descriptor) as file:
                source = _Verified(file, layer.descriptor, what)
                tree.add_file(_Entry(layer.name, "0", layer.descriptor.size, False, ""), source)
                source.finish()
        tree.need_directory(artifact.directory)
        for name in artifact.env_files:
            tree.need_file(name)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpaceError(f"{what}: no room to unpack it into {directory}") from error
        raise


def _unpack_tar(source: _Verified, tree: _Tree, what: str) -> None:
    while True:
        header = source.exactly(_BLOCK)
        if not any(header):
            break
        entry = _parse_header(header, what)
        tree.add(entry, source)
    source.finish()


class _Tree:
    """The tree so far. Parents are always directories made here, so no link is ever followed."""

    def __init__(self, directory: Path, what: str) -> None:
        self._directory = directory
        self._what = what
        self._kinds = {"": "5"}

    def add(self, entry: _Entry, source: _Verified) -> None:
        if len(self._kinds) > ENTRY_LIMIT:
            raise ConfigError(f"{self._what} has more than {ENTRY_LIMIT} files")
        if entry.kind == "0":
            self.add_file(entry, source)
            source.exactly(-entry.size % _BLOCK)
        elif entry.kind == "2":
            check_link(entry.name, entry.link, self._what)
            os.symlink(entry.link, self._claim(entry))
        else:
            self._claim(entry).mkdir()

    def add_file(self, entry: _Entry, source: _Verified) -> None:
        path = self._claim(entry)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            left = entry.size
            while left:
                data = source.exactly(min(left, CHUNK))
                file.write(data)
                left -= len(data)
            os.fchmod(file.fileno(), 0o755 if entry.executable else 0o644)

    def need_directory(self, name: str) -> None:
        if name != "." and self._kinds.get(name) != "5":
            raise ConfigError(f"{self._what} has no directory {name!r}")

    def need_file(self, name: str) -> None:
        if name not in self._kinds:
            raise ConfigError(f"{self._what} has no env file {name!r}")

    def _claim(self, entry: _Entry) -> Path:
        check_name(entry.name, self._what)
        if entry.name in self._kinds:
            raise ConfigError(f"{self._what} has {entry.name[:100]!r} twice")
        self._add_parents(posixpath.dirname(entry.name))
        self._kinds[entry.name] = entry.kind
        return self._directory / entry.name

    def _add_parents(self, name: str) -> None:
        kind = self._kinds.get(name)
        if kind == "5":
            return
        if kind is not None:
            raise ConfigError(f"{self._what} has files below {name[:100]!r}, which is no directory")
        self._add_parents(posixpath.dirname(name))
        self._kinds[name] = "5"
        (self._directory / name).mkdir()


def check_link(name: str, target: str, what: str) -> None:
    """Refuse a symbolic link that leads, or could lead through others, out of the tree.

    ``..`` may stand only in front: there it climbs from a real directory. After another name it
    would climb from wherever that name leads.

    Raises:
        ConfigError: it does; or it is absolute, empty or unprintable.
    """
    parts = target.split("/")
    climbs = len(parts) - len([*_after_dots(parts)])
    rest = parts[climbs:]
    plain = all(part not in ("", ".", "..") for part in rest)
    printable = all(ord(char) >= 32 and char not in "\\\x7f" for char in target)
    if not target or not plain or not printable or climbs > name.count("/"):
        raise ConfigError(
            f"{what}: {name[:100]!r} is a link to {target[:100]!r}, which is not a plain relative "
            "path inside the project"
        )


def _after_dots(parts: list[str]) -> list[str]:
    for index, part in enumerate(parts):
        if part != "..":
            return parts[index:]
    return []


def _parse_header(header: bytes, what: str) -> _Entry:
    if header[257:265] != b"ustar\x0000":
        raise ConfigError(f"{what}: its tar is not a plain ustar archive")
    unsigned = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
    if _octal(header[148:156], what) != unsigned:
        raise IntegrityError(f"{what}: its tar has a header whose checksum is wrong")
    name, prefix = _text(header[:100], what), _text(header[345:500], what)
    kind = "0" if header[156:157] == b"\0" else chr(header[156])
    if kind not in "025":
        raise ConfigError(f"{what}: {name[:100]!r} is neither a file, a directory nor a link")
    name = f"{prefix}/{name}" if prefix else name
    size = _octal(header[124:136], what)
    if kind != "0" and size:
        raise ConfigError(f"{what}: {name[:100]!r} is no file but has content")
    name = name.removesuffix("/") if kind == "5" else name
    executable = bool(_octal(header[100:108], what) & 0o100)
    return _Entry(name, kind, size, executable, _text(header[157:257], what))


def _octal(field: bytes, what: str) -> int:
    digits = field.strip(b" \0")
    if digits and not _OCTAL.fullmatch(digits):
        raise ConfigError(f"{what}: its tar has a header with a number that is not octal")
    return int(digits or b"0", 8)


def _text(field: bytes, what: str) -> str:
    try:
        return field.partition(b"\0")[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what}: its tar has a name that is not UTF-8") from error
