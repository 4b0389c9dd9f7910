"""Pull, push and resume against Debian's real docker-registry: TLS, htpasswd, mTLS, tokens."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from certificates import Authority, Identity
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from registryserver import DockerRegistry
from servers import HOST, PASSWORD, USER, Asked, HttpServer, Reply

from composeapps import config, oci
from composeapps.bounds import Bounds
from composeapps.errors import IntegrityError, NotFoundError, SourceError
from composeapps.registry import RegistryClient, registry_client
from composeapps.source import Source
from composeapps.transport import Transport

pytestmark = pytest.mark.skipif(
    not shutil.which(DockerRegistry.PROGRAM) and not os.environ.get("CI"),
    reason="the program docker-registry is not installed: apt install docker-registry",
)

BLOB = random.Random(2).randbytes(5_000_000)
DIGEST = oci.digest_of(BLOB)
QUICK = Bounds(backoff=0.01, backoff_cap=0.05)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., DockerRegistry]]:
    started: list[DockerRegistry] = []

    def run(**options: object) -> DockerRegistry:
        started.append(DockerRegistry(tmp_path / "registry", **options))  # type: ignore[arg-type]
        return started[-1]

    yield run
    for server in started:
        server.close()


def settings(server: DockerRegistry, **entry: str | bool) -> config.Settings:
    values = {
        "registry": {server.netloc: entry},
        "source": {"timeout": 5.0, "attempts": 3},
    }
    return config.parse(values, "test")


def client(server: DockerRegistry, **entry: str | bool) -> RegistryClient:
    transport = Transport(5, bounds=QUICK, environment={})
    return registry_client(server.netloc, settings(server, **entry), transport)


def push(registry: RegistryClient, server: DockerRegistry) -> tuple[oci.Reference, str]:
    """Push a one-layer artifact with a tag; return its reference and manifest digest."""
    reference = oci.Reference(server.netloc, "shop/web", "v1")
    empty = b"{}"
    for data in (BLOB, empty):
        registry.push_blob(reference, oci.digest_of(data), len(data), io.BytesIO(data))
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci.OCI_MANIFEST,
        "config": oci.Descriptor(oci.EMPTY_TYPE, oci.digest_of(empty), len(empty)).to_json(),
        "layers": [oci.Descriptor("application/x", DIGEST, len(BLOB)).to_json()],
    }
    data = json.dumps(manifest).encode()
    return reference, registry.push_manifest(reference, data, oci.OCI_MANIFEST)


def round_trip(server: DockerRegistry, ingest: Path, **entry: str | bool) -> None:
    """Push, then resolve, read and download with a part already there."""
    registry = client(server, **entry)
    reference, digest = push(registry, server)
    assert registry.has_blob(reference, DIGEST)
    assert not registry.has_blob(reference, oci.digest_of(b"none"))
    source = Source(settings(server, **entry), bounds=QUICK)
    assert source.resolve_tag(reference).digest == digest
    manifest = oci.parse_manifest(source.read(reference, digest, 10_000, kind="manifest"), "it")
    ingest.mkdir(exist_ok=True)
    (ingest / f"{oci.hex_of(DIGEST)}.part").write_bytes(BLOB[:2_000_000])
    before = source.stats.received
    path = source.download(reference, manifest.layers[0], ingest)
    assert path.read_bytes() == BLOB
    assert 3_000_000 < source.stats.received - before < 3_100_000
    with pytest.raises(NotFoundError):
        source.read(reference, oci.digest_of(b"none"), 100, kind="manifest")


def test_plain_http(start: Callable[..., DockerRegistry], tmp_path: Path) -> None:
    server = start()
    round_trip(server, tmp_path / "ingest", insecure=True)


def test_tls_and_htpasswd(
    start: Callable[..., DockerRegistry], tmp_path: Path, authority: Authority
) -> None:
    server = start(tls=authority.issue(HOST), htpasswd=True)
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    login = {"username": USER, "password_file": str(password), "ca": str(authority.path)}
    round_trip(server, tmp_path / "ingest", **login)
    reference = oci.Reference(server.netloc, "shop/web", "v1")
    with pytest.raises(SourceError, match="certificate is not accepted"):
        client(server, **{**login, "ca": ""}).resolve_tag(reference)
    with pytest.raises(SourceError, match="wants a login"):
        client(server, ca=str(authority.path)).resolve_tag(reference)
    password.write_text("wrong")
    with pytest.raises(SourceError, match=r"answers 401.*UNAUTHORIZED"):
        client(server, **login).resolve_tag(reference)


def test_client_certificates(
    start: Callable[..., DockerRegistry], tmp_path: Path, authority: Authority
) -> None:
    server = start(tls=authority.issue(HOST), clients=authority.path)
    mine = authority.issue("device-1", client=True)
    files = {"client_certificate": str(mine.certificate), "client_key": str(mine.key)}
    round_trip(server, tmp_path / "ingest", ca=str(authority.path), **files)
    with pytest.raises(SourceError):
        client(server, ca=str(authority.path)).resolve_tag(oci.Reference(server.netloc, "a", "b"))


class TokenServer(HttpServer):
    """A token server after the distribution project's specification: signed JSON Web Tokens."""

    def __init__(self, authority: Authority, identity: Identity) -> None:
        self._key = serialization.load_pem_private_key(identity.key.read_bytes(), None)
        loaded = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
        self._certificate = loaded.public_bytes(serialization.Encoding.DER)
        context = authority.server_context(authority.issue(HOST))
        super().__init__(self._give, context=context)

    def _give(self, asked: Asked) -> Reply:
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if asked.headers.get("authorization") != f"Basic {login}":
            return Reply(401)
        query = parse_qs(urlsplit(asked.target).query)
        kind, name, actions = query["scope"][0].split(":")
        access = [{"type": kind, "name": name, "actions": actions.split(",")}]
        return Reply(200, json.dumps({"token": self._token(query["service"][0], access)}).encode())

    def _token(self, service: str, access: object) -> str:
        now = int(time.time())
        header = {
            "typ": "JWT",
            "alg": "ES256",
            "x5c": [base64.b64encode(self._certificate).decode()],
        }
        claims = {
            "iss": "test-issuer", "sub": USER, "aud": service, "exp": now + 60, "nbf": now - 9,
            "iat": now - 9, "jti": str(now), "access": access,
        }  # fmt: skip
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        assert isinstance(self._key, ec.EllipticCurvePrivateKey)
        r, s = utils.decode_dss_signature(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return (signed + b"." + _base64url(signature)).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def test_tokens(start: Callable[..., DockerRegistry], tmp_path: Path, authority: Authority) -> None:
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    with TokenServer(authority, authority.issue("signer", client=True)) as tokens:
        server = start(
            tls=authority.issue(HOST),
            token=(f"{tokens.url}/token", "test-issuer", authority.path),
        )
        login = {"username": USER, "password_file": str(password), "ca": str(authority.path)}
        round_trip(server, tmp_path / "ingest", **login)
        scopes = {parse_qs(urlsplit(a.target).query)["scope"][0] for a in tokens.requests}
        assert scopes == {"repository:shop/web:pull", "repository:shop/web:pull,push"}
        with pytest.raises(SourceError, match="answers 401"):
            client(server, ca=str(authority.path)).resolve_tag(
                oci.Reference(server.netloc, "shop/web", "v1")
            )


def test_a_registry_that_is_restarted_in_the_middle(
    start: Callable[..., DockerRegistry], tmp_path: Path
) -> None:
    """What a device sees of a server's maintenance: refused, then resumed from its part."""
    server = start()
    reference, _ = push(client(server, insecure=True), server)
    descriptor = oci.Descriptor("application/x", DIGEST, len(BLOB))
    (tmp_path / f"{oci.hex_of(DIGEST)}.part").write_bytes(BLOB[:1000])
    server.close()
    source = Source(settings(server, insecure=True), bounds=QUICK)
    with pytest.raises(SourceError, match="refused"):
        source.download(reference, descriptor, tmp_path)
    again = DockerRegistry(server.directory)
    try:
        moved = oci.Reference(again.netloc, reference.repository)
        source = Source(settings(again, insecure=True), bounds=QUICK)
        path = source.download(moved, descriptor, tmp_path)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    finally:
        again.close()


def test_a_damaged_registry(start: Callable[..., DockerRegistry], tmp_path: Path) -> None:
    """A flipped bit in the registry's own storage is found, and nothing of it stays."""
    server = start()
    reference, _ = push(client(server, insecure=True), server)
    (data,) = (server.directory / "data").glob(f"**/{oci.hex_of(DIGEST)}/data")
    spoiled = bytearray(BLOB)
    spoiled[4_000_000] ^= 1
    data.write_bytes(spoiled)
    source = Source(settings(server, insecure=True), bounds=QUICK)
    descriptor = oci.Descriptor("application/x", DIGEST, len(BLOB))
    ingest = tmp_path / "ingest"
    ingest.mkdir()
    with pytest.raises(IntegrityError, match="do not have digest"):
        source.download(reference, descriptor, ingest)
    assert list(ingest.iterdir()) == []
