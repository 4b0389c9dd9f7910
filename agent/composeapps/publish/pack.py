"""A tree's files as one reproducible tar: the same files give the same bytes, wherever they lie.

Sorted by name, owner 0, time 0 (or ``SOURCE_DATE_EPOCH``), mode 0644 or 0755 by the owner's ``x``,
POSIX 1003.1-1988 ``ustar``, so that ``projectdir`` needs to know nothing else.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from composeapps.artifact import check_name
from composeapps.errors import ConfigError
from composeapps.projectdir import ENTRY_LIMIT, check_link

#: Bytes of all packed files; what is larger is data and belongs into an image or a volume.
DEFAULT_LIMIT = 64 * 1024 * 1024
#: Links followed for one path (Linux, ``path_resolution``).
_LINKS = 40
#: Largest number a ustar header holds for a time.
_TIME_LIMIT = 8**11 - 1


@dataclass(frozen=True)
class Entry:
    """One file, link or empty directory to pack; ``link`` is set for a link."""

    path: Path
    kind: bytes
    link: str = ""


def collect(root: Path, needed: Mapping[str, str], without: Collection[str]) -> dict[str, Entry]:
    """Return what to pack, by name.

    Args:
        root: the tree.
        needed: files and directories in it, with what needs each.
        without: names that are packed elsewhere.

    Raises:
        ConfigError: something cannot be packed; says what and why.
    """
    collector = _Collector(root, without)
    for name, where in sorted(needed.items()):
        collector.add(name, where)
    return collector.entries


class _Collector:
    def __init__(self, root: Path, without: Collection[str]) -> None:
        self.entries: dict[str, Entry] = {}
        self._root = root
        self._without = without

    def add(self, name: str, where: str) -> None:
        if name in self._without:
            return
        name = self._follow(name, where)
        path = self._path(name)
        if not path.is_dir():
            self._add_one(name, path.lstat().st_mode, where)
            return
        for found in _walk(path, where):
            relative = os.path.relpath(found, self._root)
            self._add_one(relative, found.lstat().st_mode, where)

    def _follow(self, name: str, where: str) -> str:
        """Pack every link on the way to a path, and return the path without links."""
        for _ in range(_LINKS):
            link = self._first_link(name)
            if link is None:
                if not os.path.lexists(self._path(name)):
                    raise ConfigError(f"{where}: {name} does not exist")
                return name
            self._add_link(link, where)
            rest = name[len(link) :].lstrip("/")
            target = os.path.join(os.path.dirname(link), os.readlink(self._path(link)), rest)
            name = os.path.normpath(target)
        raise ConfigError(f"{where}: {name} is behind too many links")

    def _first_link(self, name: str) -> str | None:
        parts = name.split("/")
        for end in range(1, len(parts) + 1):
            prefix = "/".join(parts[:end])
            if self._path(prefix).is_symlink():
                return prefix
        return None

    def _add_one(self, name: str, mode: int, where: str) -> None:
        if name in self._without or name == ".":
            return
        if stat.S_ISLNK(mode):
            self._add_link(name, where)
        elif stat.S_ISREG(mode):
            self._add(name, Entry(self._path(name), tarfile.REGTYPE))
        elif stat.S_ISDIR(mode):
            self._add(name, Entry(self._path(name), tarfile.DIRTYPE))
        else:
            kind = "a socket" if stat.S_ISSOCK(mode) else "a pipe or a device"
            raise ConfigError(f"{where}: {name} is {kind} and cannot be packed")

    def _add_link(self, name: str, where: str) -> None:
        target = os.readlink(self._path(name))
        check_link(name, target, where)
        self._add(name, Entry(self._path(name), tarfile.SYMTYPE, target))

    def _add(self, name: str, entry: Entry) -> None:
        self.entries[check_name(name, "the project")] = entry
        if len(self.entries) > ENTRY_LIMIT:
            raise ConfigError(
                f"the project packs more than {ENTRY_LIMIT} files, at last {name}: put them into "
                "an image"
            )

    def _path(self, name: str) -> Path:
        return self._root if name == "." else self._root / name


def _walk(directory: Path, where: str) -> Iterator[Path]:
    """Yield files, links and empty directories below (and with) a directory, sorted."""

    def fail(error: OSError) -> None:
        raise ConfigError(f"{where}: {error.filename} cannot be read: {error.strerror}") from error

    for base, directories, files in os.walk(directory, onerror=fail):
        directories.sort()
        for name in sorted(files + [name for name in directories if Path(base, name).is_symlink()]):
            yield Path(base, name)
        if not files and not directories:
            yield Path(base)


def write(entries: Mapping[str, Entry], limit: int = DEFAULT_LIMIT) -> bytes:
    """Return the tar of some entries.

    Args:
        limit: bytes that all files together may have.

    Raises:
        ConfigError: there is more, a file cannot be read, or a name is too long for a tar.
    """
    output = io.BytesIO()
    seconds = _source_date()
    left = limit
    for name, entry in sorted(entries.items()):
        data, executable = b"", True
        if entry.kind == tarfile.REGTYPE:
            data, executable = _read(entry.path, left, limit)
            left -= len(data)
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size, info.mtime = entry.kind, entry.link, len(data), seconds
        info.mode = 0o755 if executable else 0o644
        try:
            output.write(info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
        except (ValueError, UnicodeError) as error:
            raise ConfigError(f"{name} cannot be packed: {error}; rename it") from error
        output.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
    return output.getvalue() + bytes(2 * tarfile.BLOCKSIZE)


def _read(path: Path, left: int, limit: int) -> tuple[bytes, bool]:
    try:
        # Not following: a link here was a file when it was collected.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(left + 1)
            executable = bool(os.fstat(file.fileno()).st_mode & stat.S_IXUSR)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > left:
        raise ConfigError(
            f"the project's files are more than {limit // 1024**2} MiB, at last {path}: put large "
            "data into an image, or raise --limit"
        )
    return data, executable


def _source_date() -> int:
    """Return ``SOURCE_DATE_EPOCH`` (reproducible-builds.org), or 0."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "0")
    if not text.isascii() or not text.isdigit() or int(text[:12]) > _TIME_LIMIT:
        raise ConfigError(f"SOURCE_DATE_EPOCH has to be seconds since 1970, not {text[:40]!r}")
    return int(text)
