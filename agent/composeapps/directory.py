"""An OCI image layout in a directory, such as a USB stick's, as a place to fetch from.

Local files go through the same checks as answers of a server; the stick may be anybody's.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

from composeapps.bounds import CHUNK, StoppedError
from composeapps.errors import IntegrityError, NotFoundError, SourceError
from composeapps.oci import hex_of
from composeapps.places import Stream, Wanted


class DirectoryLayout:
    """A layout in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.name = f"layout {directory}"

    def open(self, wanted: Wanted) -> Stream:
        """Start to read content; raises SourceError or IntegrityError."""
        path = self._directory / "blobs" / "sha256" / hex_of(wanted.digest)
        stream = FileStream(path, wanted.offset, wanted.stop)
        if stream.size > wanted.limit or (wanted.exact and stream.size != wanted.limit):
            stream.close()
            raise IntegrityError(f"{path}: {stream.size} bytes instead of {wanted.limit}")
        return stream


class FileStream:
    """A regular file as content.

    Links are followed: what counts is the digest, and makers fill sticks with links. Pipes,
    devices and sockets are refused before they are opened, and again after.
    """

    def __init__(self, path: Path, offset: int, stop: threading.Event) -> None:
        """Open the file at an offset; raises NotFoundError or another SourceError."""
        self._path = path
        self._stop = stop
        self._position = offset
        self.offset = offset
        try:
            self._descriptor = _open_regular(path)
            self.size = os.fstat(self._descriptor).st_size
        except (OSError, ValueError) as error:
            raise _file_error(path, error) from error

    def read(self, amount: int) -> bytes:
        """Return up to ``amount`` bytes, nothing at the end; raises SourceError."""
        if self._stop.is_set():
            raise StoppedError(f"{self._path}: stopped")
        try:
            data = os.pread(self._descriptor, amount, self._position)
        except OSError as error:
            raise _file_error(self._path, error) from error
        self._position += len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            os.close(self._descriptor)


def read_file(path: Path, limit: int) -> bytes:
    """Return a regular file's bytes, at most ``limit``; raises NotFoundError or SourceError."""
    stream = FileStream(path, 0, threading.Event())
    try:
        data = bytearray()
        while part := stream.read(min(CHUNK, limit + 1 - len(data))):
            data += part
            if len(data) > limit:
                raise SourceError(f"{path} has more than the {limit} bytes allowed")
        return bytes(data)
    finally:
        stream.close()


def _open_regular(path: Path) -> int:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return descriptor


def _file_error(path: Path, error: Exception) -> SourceError:
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFoundError(f"{path} does not exist")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return SourceError(f"{path} cannot be read: {reason}")
