"""Content by its digest, from wherever it is: the network seam that the rest of the agent uses.

Places are asked in order: the OCI layout of the settings (web server or directory), the mirrors
of the reference's registry, the registry itself. None is trusted. Digest and size are checked
here and in ``download``, so a place that lies is a place that does not have it.

What needs ``urllib3`` is imported when a Source is made, not with this module.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from composeapps import config, oci, urls
from composeapps.bounds import CHUNK, Bounds, Stats
from composeapps.download import Watch, download_blob
from composeapps.errors import IntegrityError
from composeapps.pacing import Pace, RateLimiter, Round, download_all, persist
from composeapps.places import Kind, Place, Wanted

if TYPE_CHECKING:
    from composeapps.answers import Response


class Source:
    """Where everything comes from that this device does not hold; made once per run."""

    def __init__(self, settings: config.Settings, *, bounds: Bounds | None = None) -> None:
        """Set it up; nothing is connected yet.

        Raises:
            ConfigError: the source settings hold something that is no URL or path.
        """
        from composeapps.answers import Tls
        from composeapps.look import Look
        from composeapps.transport import Transport

        own = settings.source
        self._settings = settings
        self._bounds = bounds or Bounds()
        self._transport = Transport(
            own.timeout, bounds=self._bounds, connections=max(1, own.parallel)
        )
        self._tls = Tls(own.ca, own.client_certificate, own.client_key)
        self._limiter = RateLimiter(own.rate)
        self._places: dict[str, list[Place]] = {}
        self._lock = threading.Lock()
        self._running: list[threading.Event] = []
        self._look = Look(own, self._tls, self._transport)
        #: URLs or paths of the TUF metadata and of the target files.
        self.metadata_url = _location(own.metadata, own.url, "metadata") or urls.UNSET
        self.targets_url = _location(own.targets, own.url, "targets") or urls.UNSET
        self._layout = None
        if own.layout != "none":
            self._layout = self._layout_place(_location(own.layout, own.url, "oci"))

    @property
    def stats(self) -> Stats:
        """What went over the wire so far."""
        return self._transport.stats

    def read(self, reference: oci.Reference, digest: str, limit: int, *, kind: Kind) -> bytes:
        """Return small content, verified against its digest.

        Args:
            limit: bytes; larger content is not read to its end.

        Raises:
            NotFoundError: every place answered, and none has it.
            IntegrityError: what was found is wrong or larger than the limit, nobody else has it.
            SourceError: no place gave it; the text says what each one said.
        """
        places = Round(f"{reference.name}@{digest}", self._places_for(reference.registry))
        seconds = self._bounds.small_seconds(self._settings.source.timeout, limit)
        with self._stoppable(threading.Event()) as stop:

            def read_from(place: Place) -> bytes:
                deadline = time.monotonic() + seconds
                return _read(
                    place, Wanted(reference, digest, kind, limit, deadline=deadline, stop=stop)
                )

            pace = Pace(self._settings.source.attempts, self._bounds, stop)
            return persist(lambda: places.ask(read_from), pace)

    def download(
        self,
        reference: oci.Reference,
        descriptor: oci.Descriptor,
        ingest: Path,
        *,
        progress: Callable[[int], None] | None = None,
        space: Callable[[int], None] | None = None,
        stop: threading.Event | None = None,
        transient: bool = False,
    ) -> Path:
        """Bring one blob into the ingest directory, going on where an earlier run stopped.

        Args:
            progress, space: see ``download.Watch``.
            stop: ends it soon after it is set, with StoppedError; ``cancel`` does so too.
            transient: see ``download.download_blob``.

        Returns:
            ``<ingest>/<hex>``, verified and durable; or ``<ingest>/<hex>.part``, verified.

        Raises:
            SourceError, NotFoundError, IntegrityError: as ``read``.
            SpaceError: it does not fit.
            StateError: the file system fails.
        """
        own = self._settings.source
        told = {"progress": progress, "space": space}
        watch = Watch(**{name: function for name, function in told.items() if function})
        with self._stoppable(stop or threading.Event()) as event:
            return download_blob(
                self._places_for(reference.registry),
                reference,
                descriptor,
                ingest,
                pace=Pace(own.attempts, self._bounds, event),
                limiter=self._limiter,
                watch=watch,
                transient=transient,
            )

    def download_all(
        self,
        blobs: Iterable[tuple[oci.Reference, oci.Descriptor]],
        ingest: Path,
        *,
        progress: Callable[[str, int], None] | None = None,
        space: Callable[[int], None] | None = None,
    ) -> dict[str, Path]:
        """Bring several blobs, ``source.parallel`` at once; each digest is brought once.

        The first that fails for good stops the others; what they brought stays for the next run.

        Args:
            progress: called with a digest and what ``download`` says of it, from several threads.
            space: as in ``download``, with the missing bytes of one blob.

        Returns:
            The path of each digest.

        Raises:
            ComposeAppsError: what ``download`` raised.
        """
        unique = {descriptor.digest: (ref, descriptor) for ref, descriptor in blobs}
        jobs = [
            partial(
                self._download_job,
                reference,
                descriptor,
                ingest,
                partial(progress, descriptor.digest) if progress else None,
                space,
            )
            for reference, descriptor in unique.values()
        ]
        paths = download_all(jobs, self._settings.source.parallel)
        return dict(zip(unique, paths, strict=True))

    def cancel(self) -> None:
        """End all downloads and reads that are under way in other threads, with StoppedError."""
        with self._lock:
            for event in self._running:
                event.set()

    def get(self, url: str, limit: int, etag: str = "") -> Response:
        """Return a small file, such as TUF metadata, that nobody has verified yet.

        All files of one look together are bounded by ``source.check_timeout`` and
        ``source.check_bytes``; a look ends when nothing was asked for that time.

        Args:
            url: http, https or file URL, or an absolute path.
            limit: bytes.
            etag: of an earlier response; the status is 304 and the body empty if nothing changed.

        Raises:
            NotFoundError: the server answered that there is no such file (403, 404 or 410).
            SourceError: no usable answer.
            ConfigError: no source is set, or it cannot be used.
        """
        return self._look.get(url, limit, etag)

    def post(self, url: str, body: bytes) -> None:
        """Deliver JSON to the report server of the settings, in one try; what it says is dropped.

        It may have been taken even where this raises: the receiver tells repeats by their ids.

        Raises:
            SourceError: the server did not say that it took it.
            ConfigError: the URL or the TLS files of ``[report]`` cannot be used.
        """
        from composeapps.answers import Request, Tls

        own = self._settings.report
        limit = self._bounds.error_bytes
        seconds = self._bounds.small_seconds(self._settings.source.timeout, limit + len(body))
        request = Request(
            url,
            limit,
            method="POST",
            headers={"Content-Type": "application/json"},
            body=body,
            tls=Tls(own.ca, own.client_certificate, own.client_key),
            deadline=time.monotonic() + seconds,
        )
        with self._transport.send(request) as answer:
            answer.check(200, 201, 202, 204)

    def resolve_tag(self, reference: oci.Reference) -> oci.Descriptor:
        """Return what a tag names now, as its registry itself says; for the publisher only.

        Mirrors and layouts are not asked: nothing could tell a wrong answer of theirs.

        Raises:
            NotFoundError: there is no such tag.
            SourceError: the registry gave no usable answer.
        """
        from composeapps.registry import registry_client

        client = registry_client(reference.registry, self._settings, self._transport)
        return client.resolve_tag(reference)

    def close(self) -> None:
        """Close idle connections."""
        self._transport.close()

    @contextmanager
    def _stoppable(self, stop: threading.Event) -> Iterator[threading.Event]:
        with self._lock:
            self._running.append(stop)
        try:
            yield stop
        finally:
            with self._lock:
                self._running.remove(stop)

    def _download_job(
        self,
        reference: oci.Reference,
        descriptor: oci.Descriptor,
        ingest: Path,
        progress: Callable[[int], None] | None,
        space: Callable[[int], None] | None,
        stop: threading.Event,
    ) -> Path:
        return self.download(
            reference, descriptor, ingest, progress=progress, space=space, stop=stop
        )

    def _places_for(self, registry: str) -> list[Place]:
        from composeapps.registry import mirror_clients, registry_client

        with self._lock:
            if registry not in self._places:
                places: list[Place] = [self._layout] if self._layout else []
                places += mirror_clients(registry, self._settings, self._transport)
                places.append(registry_client(registry, self._settings, self._transport))
                self._places[registry] = places
            return self._places[registry]

    def _layout_place(self, location: str) -> Place | None:
        from composeapps.directory import DirectoryLayout
        from composeapps.layout import WebLayout

        if not location:
            return None
        path = urls.local_path(location)
        if path is not None:
            return DirectoryLayout(path)
        return WebLayout(location, self._tls, self._transport)


def _read(place: Place, wanted: Wanted) -> bytes:
    stream = place.open(wanted)
    try:
        data = bytearray()
        while part := stream.read(CHUNK):
            data += part
            if len(data) > wanted.limit:
                raise IntegrityError(f"{place.name}: more than {wanted.limit} bytes")
    finally:
        stream.close()
    if oci.digest_of(bytes(data)) != wanted.digest:
        raise IntegrityError(f"{place.name}: the bytes do not have digest {wanted.digest}")
    return bytes(data)


def _location(value: str, url: str, name: str) -> str:
    """Return a setting's base URL or path, or what ``source.url`` makes of it; "" for none."""
    if not value and not url:
        return ""
    location = value.rstrip("/") if value else f"{url.rstrip('/')}/{name}"
    if urls.local_path(location) is None:
        urls.base(location)
    return location
