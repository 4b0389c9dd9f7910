"""One OCI registry or mirror: pull by digest, and push (distribution-spec 1.1)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import IO, TypeVar
from urllib.parse import quote

from composeapps import config, oci, urls
from composeapps.answers import Answer, Request, Response, Tls
from composeapps.errors import ConfigError, NotFoundError, SourceError
from composeapps.pacing import Pace, persist
from composeapps.places import Stream, Wanted
from composeapps.registry_auth import Authorizer
from composeapps.transport import Transport, open_content, range_header

#: Media types of manifests, as a registry wants them in ``Accept``.
ACCEPT = ", ".join(sorted(oci.MANIFEST_TYPES | oci.INDEX_TYPES))
DOCKER_HUB = "https://registry-1.docker.io"
#: Bytes of an answer that has nothing to say to us.
SHORT = 64 * 1024

T = TypeVar("T")


class RegistryClient:
    """Speaks to one registry at one base URL; safe from several threads."""

    def __init__(
        self,
        base: str,
        settings: config.RegistrySettings,
        transport: Transport,
        *,
        attempts: int = 5,
        name: str = "",
    ) -> None:
        """Set it up; nothing is sent yet.

        Args:
            base: URL without ``/v2``.
            settings: TLS files and login for this very host.
            attempts: tries of one push before it counts as failed.

        Raises:
            ConfigError: the URL cannot be used.
        """
        self._base = urls.base(base)
        self._tls = Tls(settings.ca, settings.client_certificate, settings.client_key)
        self._transport = transport
        self._attempts = attempts
        self._login = Authorizer(self._base, settings, self._tls, transport)
        self.name = name or f"registry {self._base}"

    def open(self, wanted: Wanted) -> Stream:
        """Start to read a manifest or blob; raises SourceError or IntegrityError."""
        headers = range_header(wanted)
        part = "blobs"
        if wanted.kind == "manifest":
            headers["Accept"] = ACCEPT
            part = "manifests"
        request = Request(
            self._url(wanted.reference, f"{part}/{oci.parse_digest(wanted.digest)}"),
            wanted.limit,
            headers=headers,
            tls=self._tls,
            deadline=wanted.deadline,
            stop=wanted.stop,
        )
        return open_content(self._send(request, _scope(wanted.reference, "pull")), wanted)

    def resolve_tag(self, reference: oci.Reference) -> oci.Descriptor:
        """Return the descriptor of what a tag names now; its digest is made from the bytes.

        Raises:
            NotFoundError: there is no such tag.
            SourceError: the registry did not answer, or not with a manifest.
            ConfigError: the reference has no tag.
        """
        if not reference.tag:
            raise ConfigError(f"{reference} has no tag")
        request = Request(
            self._url(reference, f"manifests/{reference.tag}"),
            oci.MANIFEST_LIMIT,
            headers={"Accept": ACCEPT},
        )
        answer = self._persist(lambda: self._fetch(request, _scope(reference, "pull"), 200))
        media_type = oci.load_json(answer.body, str(reference)).get("mediaType")
        if not isinstance(media_type, str):
            media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
        if media_type not in oci.MANIFEST_TYPES | oci.INDEX_TYPES:
            raise SourceError(f"{reference}: the registry answers with no OCI or Docker manifest")
        return oci.Descriptor(media_type, oci.digest_of(answer.body), len(answer.body))

    def has_blob(self, reference: oci.Reference, digest: str) -> bool:
        """Say whether the registry has a blob in the reference's repository."""
        return self._has(reference, f"blobs/{oci.parse_digest(digest)}")

    def has_manifest(self, reference: oci.Reference, digest: str) -> bool:
        """Say whether the registry has a manifest in the reference's repository."""
        return self._has(reference, f"manifests/{oci.parse_digest(digest)}")

    def push_blob(self, reference: oci.Reference, digest: str, size: int, file: IO[bytes]) -> None:
        """Upload a blob with POST and one PUT, unless the registry has it.

        Args:
            size: bytes of the blob, which begins at the file's start; the file must be seekable.

        Raises:
            SourceError: the registry did not take it.
        """
        if not self.has_blob(reference, digest):
            self._persist(lambda: self._upload(reference, digest, size, file))

    def push_manifest(self, reference: oci.Reference, data: bytes, media_type: str) -> str:
        """Upload a manifest under its digest, and under the reference's tag if it has one.

        Returns:
            The digest.

        Raises:
            SourceError: the registry did not take it.
        """
        digest = oci.digest_of(data)
        request = Request(
            self._url(reference, f"manifests/{reference.tag or digest}"),
            SHORT,
            method="PUT",
            headers={"Content-Type": media_type},
            body=data,
        )
        self._persist(lambda: self._fetch(request, _scope(reference, "pull,push"), 201))
        return digest

    def _has(self, reference: oci.Reference, path: str) -> bool:
        url = self._url(reference, path)
        request = Request(url, 0, method="HEAD", headers={"Accept": ACCEPT})
        try:
            self._persist(lambda: self._fetch(request, _scope(reference, "pull,push"), 200))
        except NotFoundError:
            return False
        return True

    def _upload(self, reference: oci.Reference, digest: str, size: int, file: IO[bytes]) -> None:
        scope = _scope(reference, "pull,push")
        start = Request(self._url(reference, "blobs/uploads/"), SHORT, method="POST", body=b"")
        location = self._fetch(start, scope, 202).headers.get("location", "")
        url = urls.redirect(start.url, location)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        put = Request(
            f"{url}{'&' if '?' in url else '?'}digest={quote(oci.parse_digest(digest))}",
            SHORT,
            method="PUT",
            headers=headers,
            body=file,
        )
        self._fetch(put, scope, 201)

    def _url(self, reference: oci.Reference, path: str) -> str:
        return f"{self._base}/v2/{reference.repository}/{path}"

    def _persist(self, action: Callable[[], T]) -> T:
        return persist(action, Pace(self._attempts, self._transport.bounds))

    def _fetch(self, request: Request, scope: str, *accepted: int) -> Response:
        """Send a request and read its short answer; what is small has a deadline as a whole."""
        request = replace(request, tls=self._tls)
        if request.body is None or isinstance(request.body, bytes):
            seconds = self._transport.bounds.small_seconds(self._transport.timeout, request.limit)
            request = replace(request, deadline=time.monotonic() + seconds)
        with self._send(request, scope) as answer:
            answer.check(*accepted)
            return Response(answer.status, answer.headers, answer.body())

    def _send(self, request: Request, scope: str) -> Answer:
        """Send a request, and once more with a login where the registry asks for one."""
        answer = self._send_with_login(request, scope)
        if answer.status != 401:
            return answer
        with answer:
            self._login.learn(answer, request, scope)
        return self._send_with_login(request, scope)

    def _send_with_login(self, request: Request, scope: str) -> Answer:
        if request.body is not None and not isinstance(request.body, bytes):
            request.body.seek(0)
        headers = {**request.headers, **self._login.headers(scope)}
        return self._transport.send(replace(request, headers=headers))


def registry_client(
    registry: str, settings: config.Settings, transport: Transport
) -> RegistryClient:
    """Return the client for a reference's registry itself, as its settings say to reach it."""
    own = settings.registry.get(registry, config.RegistrySettings())
    base = f"{'http' if own.insecure else 'https'}://{registry}"
    if registry == "docker.io":
        base = DOCKER_HUB
    return RegistryClient(base, own, transport, attempts=settings.source.attempts)


def mirror_clients(
    registry: str, settings: config.Settings, transport: Transport
) -> list[RegistryClient]:
    """Return the clients for a registry's mirrors, in order.

    A mirror is another host: TLS files and login are those of its own ``[registry."host:port"]``.
    """
    own = settings.registry.get(registry, config.RegistrySettings())
    clients = []
    for url in own.mirrors:
        host = urls.base(url).partition("://")[2].partition("/")[0].lower()
        entry = settings.registry.get(host, config.RegistrySettings())
        clients.append(RegistryClient(url, entry, transport, name=f"mirror {url}"))
    return clients


def _scope(reference: oci.Reference, actions: str) -> str:
    return f"repository:{reference.repository}:{actions}"
