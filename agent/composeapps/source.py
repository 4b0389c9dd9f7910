"""Content by its digest, from wherever it is: the network seam that the rest of the agent uses.

Places are asked in order: the OCI layout of the settings (web server or directory), the mirrors
of the reference's registry, the registry itself. None is trusted. Digest and size are checked
here and in ``download``, so a place that lies is a place that does not have it.

What needs ``urllib3`` is imported when a Source is made, not with this module.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from composeapps import config, oci
from composeapps.bounds import CHUNK, Bounds, Stats
from composeapps.download import Watch, download_blob
from composeapps.errors import ConfigError, IntegrityError
from composeapps.pacing import Pace, RateLimiter, Round, download_all, persist
from composeapps.places import Kind, Place, Wanted

if TYPE_CHECKING:
    from composeapps.answers import Response

#: RFC 9110, 8.8.3: an opaque quoted string; we keep short ones only.
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,256}"')


class Source:
    """Where everything comes from that this device does not hold; made once per run."""

    def __init__(self, settings: config.Settings, *, bounds: Bounds | None = None) -> None:
        """Set it up; nothing is connected yet.

        Raises:
            ConfigError: the source settings hold something that is no URL or path.
        """
        from composeapps.answers import Tls
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
        #: URLs, without a slash at the end, of the TUF metadata and the target files; "" for none.
        self.metadata = _location(own.metadata, own.url, "metadata")
        self.targets = _location(own.targets, own.url, "targets")
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
        pace = Pace(self._settings.source.attempts, self._bounds)
        places = Round(f"{reference.name}@{digest}", self._places_for(reference.registry))

        def read_from(place: Place) -> bytes:
            seconds = self._bounds.small_seconds(self._settings.source.timeout, limit)
            deadline = time.monotonic() + seconds
            return _read(place, Wanted(reference, digest, kind, limit, deadline=deadline))

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
    ) -> Path:
        """Bring one blob into the ingest directory, going on where an earlier run stopped.

        Args:
            progress, space: see ``download.Watch``.
            stop: ends it soon after it is set, with StoppedError.

        Returns:
            ``<ingest>/<hex>``: verified and durable.

        Raises:
            SourceError, NotFoundError, IntegrityError: as ``read``.
            SpaceError: it does not fit.
            StateError: the file system fails.
        """
        own = self._settings.source
        watch = Watch(
            **{name: value for name, value in (("progress", progress), ("space", space)) if value}
        )
        return download_blob(
            self._places_for(reference.registry),
            reference,
            descriptor,
            ingest,
            pace=Pace(own.attempts, self._bounds, stop or threading.Event()),
            limiter=self._limiter,
            watch=watch,
        )

    def download_all(
        self,
        blobs: Iterable[tuple[oci.Reference, oci.Descriptor]],
        ingest: Path,
        *,
        progress: Callable[[int], None] | None = None,
        space: Callable[[int], None] | None = None,
    ) -> dict[str, Path]:
        """Bring several blobs, ``source.parallel`` at once; each digest is brought once.

        The first that fails for good stops the others; what they brought stays for the next run.

        Args:
            progress: as in ``download``; called from several threads, one at a time.
            space: as in ``download``, with the missing bytes of one blob.

        Returns:
            The path of each digest.

        Raises:
            ComposeAppsError: what ``download`` raised.
        """
        lock = threading.Lock()

        def tell(count: int) -> None:
            with lock:
                if progress:
                    progress(count)

        unique = {descriptor.digest: (ref, descriptor) for ref, descriptor in blobs}
        jobs = [
            partial(self._download_job, reference, descriptor, ingest, tell, space)
            for reference, descriptor in unique.values()
        ]
        paths = download_all(jobs, self._settings.source.parallel)
        return dict(zip(unique, paths, strict=True))

    def get(
        self, url: str, limit: int, *, etag: str | None = None, seconds: float | None = None
    ) -> Response:
        """Return a small file, such as TUF metadata, that nobody has verified yet.

        Args:
            url: http, https or file URL, or an absolute path.
            limit: bytes.
            etag: of an earlier response; the status is 304 and the body empty if nothing changed.
            seconds: all tries together; ``source.check_timeout`` by default.

        Raises:
            NotFoundError: the server answered that there is no such file.
            SourceError: no usable answer.
        """
        from composeapps.answers import Response

        path = _local_path(url)
        if path is not None:
            from composeapps.directory import read_file

            body = read_file(path, limit)
            own = f'"{oci.digest_of(body)}"'
            return Response(304, {}, b"", own) if etag == own else Response(200, {}, body, own)
        allowed = self._settings.source.check_timeout if seconds is None else seconds
        deadline = time.monotonic() + allowed
        pace = Pace(self._settings.source.attempts, self._bounds, deadline=deadline)
        return persist(lambda: self._get_once(url, limit, etag, deadline), pace)

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

    def _download_job(
        self,
        reference: oci.Reference,
        descriptor: oci.Descriptor,
        ingest: Path,
        progress: Callable[[int], None],
        space: Callable[[int], None] | None,
        stop: threading.Event,
    ) -> Path:
        return self.download(
            reference, descriptor, ingest, progress=progress, space=space, stop=stop
        )

    def _get_once(self, url: str, limit: int, etag: str | None, deadline: float) -> Response:
        from composeapps.answers import Request, Response

        known = etag if etag and _ETAG.fullmatch(etag) else ""
        seconds = self._bounds.small_seconds(self._settings.source.timeout, limit)
        request = Request(
            url,
            limit,
            headers={"If-None-Match": known} if known else {},
            tls=self._tls,
            deadline=min(deadline, time.monotonic() + seconds),
        )
        answer = self._transport.fetch(request, *((200, 304) if known else (200,)))
        given = answer.headers.get("etag", "").strip()
        new = given if _ETAG.fullmatch(given) else ""
        return Response(answer.status, answer.headers, answer.body, new)

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
        path = _local_path(location)
        if path is not None:
            return DirectoryLayout(path)
        return WebLayout(location, self._tls, self._transport)


def _read(place: Place, wanted: Wanted) -> bytes:
    stream = place.open(wanted)
    try:
        data = b""
        while part := stream.read(CHUNK):
            data += part
            if len(data) > wanted.limit:
                raise IntegrityError(f"{place.name}: more than {wanted.limit} bytes")
    finally:
        stream.close()
    if oci.digest_of(data) != wanted.digest:
        raise IntegrityError(f"{place.name}: the bytes do not have digest {wanted.digest}")
    return data


def _location(value: str, url: str, name: str) -> str:
    """Return a setting's base URL or path, or what ``source.url`` makes of it; "" for none."""
    if not value and not url:
        return ""
    location = value.rstrip("/") if value else f"{url.rstrip('/')}/{name}"
    if _local_path(location) is None:
        from composeapps import urls

        urls.base(location)
    return location


def _local_path(url: str) -> Path | None:
    """Return the path that a file URL or an absolute path names, None for other URLs."""
    if url.startswith("/"):
        return Path(url)
    if not url.lower().startswith("file:"):
        return None
    path = unquote(url[5:].removeprefix("//localhost").removeprefix("//"))
    if not path.startswith("/") or "\0" in path:
        raise ConfigError(f"not a usable file URL: {url[:200]!r}; write it like file:///path")
    return Path(path)
