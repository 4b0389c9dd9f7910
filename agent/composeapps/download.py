"""One blob into the ingest directory: streamed, verified, resumable, durable.

``<hex>.part`` is unfinished work that any later run goes on with, after a power cut too: what is
on disk is hashed again first. ``<hex>`` is finished: verified, fsynced, then renamed.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from composeapps import durable
from composeapps.bounds import CHUNK
from composeapps.digests import file_digest
from composeapps.durable import PART
from composeapps.errors import (
    IntegrityError,
    SourceError,
    SpaceError,
    StateError,
    TransientError,
)
from composeapps.oci import Descriptor, Reference, hex_of
from composeapps.pacing import Pace, RateLimiter, Round, persist
from composeapps.places import Place, Stream, Wanted

#: Bytes written between two space checks.
SPACE_STEP = 8 * 1024 * 1024


def _ignore(count: int) -> None:
    """Take a number and do nothing with it."""


@dataclass(frozen=True)
class Watch:
    """Who is told of a download, and who may stop it."""

    #: Called with the bytes of the blob that are on disk now; fewer than before where a download
    #: had to begin again.
    progress: Callable[[int], None] = _ignore
    #: Called with the bytes still to be written, before the first and every few MiB; it raises
    #: SpaceError where they do not fit.
    space: Callable[[int], None] = _ignore


class Part:
    """The unfinished file of one download, with the hash of what it holds."""

    def __init__(self, path: Path, descriptor: Descriptor, watch: Watch) -> None:
        """Open or create the file and hash what is there; raises SpaceError or StateError."""
        self.path = path
        self.have = 0
        #: The place that all bytes so far came from in this run; None for several or unknown.
        self.origin: Place | None = None
        #: Bytes written in this run, also those that were thrown away again.
        self.written = 0
        self._descriptor = descriptor
        self._watch = watch
        self._hasher = hashlib.sha256()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _disk_error(path, error) from error
        try:
            self._rehash()
        except OSError as error:
            os.close(self._file)
            raise _disk_error(path, error) from error

    def __enter__(self) -> Part:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    @property
    def missing(self) -> int:
        """Bytes still to come."""
        return self._descriptor.size - self.have

    def append(self, data: bytes, place: Place) -> None:
        """Add bytes; raises SpaceError or StateError, and IntegrityError for too many."""
        if len(data) > self.missing:
            raise IntegrityError(f"{place.name} sends more than {self._descriptor.size} bytes")
        if self.have == 0:
            self.origin = place
        elif self.origin is not place:
            self.origin = None
        try:
            view = memoryview(data)
            while view:
                count = os.pwrite(self._file, view, self.have)
                self._hasher.update(view[:count])
                self.have += count
                self.written += count
                view = view[count:]
        except OSError as error:
            raise _disk_error(self.path, error) from error
        finally:
            self._watch.progress(self.have)

    def restart(self) -> None:
        """Throw away what is there."""
        try:
            os.ftruncate(self._file, 0)
        except OSError as error:
            raise _disk_error(self.path, error) from error
        self.have, self.origin, self._hasher = 0, None, hashlib.sha256()
        self._watch.progress(0)

    def is_right(self) -> bool:
        """Say whether the bytes so far have the digest that the whole has to have."""
        return self._hasher.hexdigest() == hex_of(self._descriptor.digest)

    def finish(self, final: Path) -> None:
        """Make the bytes durable and give them their final name."""
        try:
            durable.fsync_file(self.path)
            durable.publish_path(self.path, final)
        except OSError as error:
            raise _disk_error(self.path, error) from error

    def _rehash(self) -> None:
        if os.fstat(self._file).st_size > self._descriptor.size:
            os.ftruncate(self._file, 0)
        while data := os.pread(self._file, CHUNK, self.have):
            self._hasher.update(data)
            self.have += len(data)
        if self.have:
            self._watch.progress(self.have)


def download_blob(
    places: Sequence[Place],
    reference: Reference,
    descriptor: Descriptor,
    ingest: Path,
    *,
    pace: Pace,
    limiter: RateLimiter,
    watch: Watch,
    transient: bool = False,
) -> Path:
    """Bring one blob into the ingest directory and return its path there.

    A file that is there already is verified and used.

    Args:
        transient: the caller uses it at once and removes it. It is verified, keeps its unfinished
            name and is not fsynced, so that what came faster than the kernel writes back is never
            written; after a power cut it is a part like any other.

    Raises:
        SourceError, NotFoundError, IntegrityError: no place gave it (see ``Round.ask``).
        SpaceError: the file system is full.
        StateError: the file system does not take or give bytes.
    """
    final = ingest / hex_of(descriptor.digest)
    path = ingest / f"{final.name}{PART}"
    if _is_finished(final, descriptor, watch):
        return final
    places_left = Round(f"{reference.name}@{descriptor.digest}", places)
    with Part(path, descriptor, watch) as part:

        def fill(place: Place) -> None:
            _fill(part, place, reference, descriptor, pace, limiter, watch)

        try:
            if part.missing or not part.is_right():
                watch.space(part.missing)
                persist(lambda: places_left.ask(fill), pace, lambda: part.written)
            if transient:
                return path
            part.finish(final)
        except (SourceError, IntegrityError, SpaceError):
            if part.have == 0:
                durable.remove(path)
            raise
    return final


def _fill(
    part: Part,
    place: Place,
    reference: Reference,
    descriptor: Descriptor,
    pace: Pace,
    limiter: RateLimiter,
    watch: Watch,
) -> None:
    """Complete the part from one place; wrong bytes are thrown away at once.

    Where some of the wrong bytes are not this place's (an earlier run's, another place's), it
    gets one chance to give all of them: a poisoned beginning must not poison for ever.
    """
    while True:
        if part.missing:
            wanted = Wanted(
                reference,
                descriptor.digest,
                "blob",
                descriptor.size,
                exact=True,
                offset=part.have,
                stop=pace.stop,
            )
            stream = place.open(wanted)
            try:
                _copy(part, place, stream, pace, limiter, watch)
            finally:
                stream.close()
        if part.is_right():
            return
        own = part.origin is place or descriptor.size == 0
        part.restart()
        if own:
            raise IntegrityError(f"{place.name}: the bytes do not have digest {descriptor.digest}")


def _copy(
    part: Part, place: Place, stream: Stream, pace: Pace, limiter: RateLimiter, watch: Watch
) -> None:
    if stream.offset != part.have:  # 0: a server without ranges
        part.restart()
    amount = min(CHUNK, max(1024, limiter.rate // 4)) if limiter.rate else CHUNK
    checked = part.have
    while part.missing:
        data = stream.read(min(amount, part.missing))
        if not data:
            raise TransientError(f"{place.name}: ends {part.missing} bytes too early")
        part.append(data, place)
        if part.have - checked >= SPACE_STEP:
            checked = part.have
            watch.space(part.missing)
        limiter.take(len(data), pace)


def _is_finished(final: Path, descriptor: Descriptor, watch: Watch) -> bool:
    try:
        if file_digest(final) == descriptor.digest:
            watch.progress(descriptor.size)
            return True
        durable.remove(final)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _disk_error(final, error) from error
    return False


def _disk_error(path: Path, error: OSError) -> SpaceError | StateError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return SpaceError(f"{path} cannot be written: {error.strerror}; free some space there")
    return StateError(f"{path} cannot be read or written: {error.strerror}; check the medium")
