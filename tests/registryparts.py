"""What the tests of the registry protocol share."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from servers import Asked, HttpServer, Reply, ranged

from composeapps import config, oci
from composeapps.bounds import Bounds
from composeapps.places import Wanted
from composeapps.registry import RegistryClient
from composeapps.transport import Transport

BLOB = b"some layer" * 1000
DIGEST = oci.digest_of(BLOB)
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": []}).encode()
BASIC = "Basic " + base64.b64encode(b"maker:secret").decode()
QUICK = Bounds(backoff=0.01, backoff_cap=0.02, retry_after=0.05)


class MemoryRegistry(HttpServer):
    """A registry in memory; ``guard`` may answer before it does."""

    def __init__(self, guard: Callable[[Asked], Reply | None] = lambda _: None) -> None:
        self.blobs = {DIGEST: BLOB}
        self.manifests = {"latest": MANIFEST, oci.digest_of(MANIFEST): MANIFEST}
        self._guard = guard
        super().__init__(self._answer)

    def _answer(self, asked: Asked) -> Reply:
        refused = self._guard(asked)
        if refused:
            return refused
        parts = urlsplit(asked.target)
        name = parts.path.rpartition("/")[2]
        if asked.method == "POST":
            return Reply(202, b"", {"Location": f"{asked.url}/v2/a/b/blobs/uploads/1?_state=x"})
        if asked.method == "PUT" and "/uploads/" in parts.path:
            self.blobs[parse_qs(parts.query)["digest"][0]] = asked.body
            return Reply(201)
        if asked.method == "PUT":
            self.manifests[name] = asked.body
            return Reply(201)
        body = (self.blobs if "/blobs/" in parts.path else self.manifests).get(name)
        return Reply(404, b'{"errors": [{"code": "NO"}]}') if body is None else ranged(asked, body)


def client(
    server: HttpServer, secret: Path | None = None, *, user: str = "maker"
) -> RegistryClient:
    settings = config.RegistrySettings(
        insecure=True, username=user if secret else "", password_file=str(secret or "")
    )
    transport = Transport(2, bounds=QUICK, environment={})
    return RegistryClient(server.url, settings, transport, attempts=3)


REFERENCE = oci.Reference("127.0.0.1:1", "a/b", "latest")


def pull(registry: RegistryClient, digest: str = DIGEST, size: int = len(BLOB)) -> bytes:
    stream = registry.open(Wanted(REFERENCE, digest, "blob", size, exact=True))
    data = b""
    while part := stream.read(65536):
        data += part
    stream.close()
    return data


def wants(challenge: str, value: str) -> Callable[[Asked], Reply | None]:
    """Return a guard that demands an Authorization header."""

    def guard(asked: Asked) -> Reply | None:
        if asked.headers.get("authorization") == value:
            return None
        return Reply(401, b"", {"WWW-Authenticate": challenge})

    return guard
