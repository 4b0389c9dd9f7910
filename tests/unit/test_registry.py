"""The registry protocol against small servers: pulls, ranges, uploads, hostile answers."""

from __future__ import annotations

import io

import pytest
from registryparts import BLOB, DIGEST, MANIFEST, REFERENCE, MemoryRegistry, client, pull
from servers import Asked, HttpServer, Reply

from composeapps import config, oci
from composeapps.errors import ConfigError, IntegrityError, NotFoundError, SourceError
from composeapps.places import Wanted
from composeapps.registry import ACCEPT, mirror_clients, registry_client
from composeapps.transport import Transport


def test_urls_and_accept_headers_of_blobs_and_manifests() -> None:
    with MemoryRegistry() as server:
        registry = client(server)
        assert pull(registry) == BLOB
        digest = oci.digest_of(MANIFEST)
        stream = registry.open(Wanted(REFERENCE, digest, "manifest", 8000))
        assert stream.read(8000) == MANIFEST
        blob, manifest = server.requests
        assert blob.target == f"/v2/a/b/blobs/{DIGEST}"
        assert manifest.target == f"/v2/a/b/manifests/{digest}"
        assert manifest.headers["accept"] == ACCEPT
        for media_type in oci.MANIFEST_TYPES | oci.INDEX_TYPES:
            assert media_type in ACCEPT


def test_ranges() -> None:
    with MemoryRegistry() as server:
        stream = client(server).open(
            Wanted(REFERENCE, DIGEST, "blob", len(BLOB), exact=True, offset=100)
        )
        assert stream.offset == 100
        assert stream.read(50) == BLOB[100:150]
        stream.close()
        assert server.requests[0].headers["range"] == f"bytes=100-{len(BLOB) - 1}"


@pytest.mark.parametrize(
    "header",
    ["bytes 0-9999/10000", "bytes 101-9999/10000", "bytes 100-9998/10000", "bytes 100-9999/10001",
     "bytes 100-99999999999999999999/10000", "bytes 100-9999", "", "100-9999/10000",
     "bytes */10000", "bytes 0100-9999/10000 x"],
)  # fmt: skip
def test_another_range_than_asked_for_is_refused(header: str) -> None:
    reply = Reply(206, BLOB[100:], {"Content-Range": header})
    wanted = Wanted(REFERENCE, DIGEST, "blob", len(BLOB), exact=True, offset=100)
    with HttpServer(lambda _: reply) as server, pytest.raises(SourceError, match="another range"):
        client(server).open(wanted)


def test_a_range_that_was_not_asked_for_is_refused() -> None:
    reply = Reply(206, BLOB, {"Content-Range": f"bytes 0-{len(BLOB) - 1}/{len(BLOB)}"})
    with HttpServer(lambda _: reply) as server, pytest.raises(SourceError, match="another range"):
        pull(client(server))


@pytest.mark.parametrize("size", [len(BLOB) - 1, len(BLOB) + 1])
def test_a_wrong_length_is_refused_before_reading(size: int) -> None:
    with MemoryRegistry() as server, pytest.raises(IntegrityError, match="instead of"):
        pull(client(server), size=size)


# Publisher


def test_resolve_tag() -> None:
    with MemoryRegistry() as server:
        found = client(server).resolve_tag(REFERENCE)
        assert found == oci.Descriptor(oci.OCI_INDEX, oci.digest_of(MANIFEST), len(MANIFEST))
        with pytest.raises(NotFoundError):
            client(server).resolve_tag(oci.Reference("h", "a/b", "none"))
        with pytest.raises(ConfigError, match="no tag"):
            client(server).resolve_tag(oci.Reference("h", "a/b"))
        server.manifests["latest"] = b"<html>"
        with pytest.raises(IntegrityError, match="not valid JSON"):
            client(server).resolve_tag(REFERENCE)
        server.manifests["latest"] = b'{"schemaVersion": 1}'
        with pytest.raises(SourceError, match="no OCI or Docker manifest"):
            client(server).resolve_tag(REFERENCE)


def test_push() -> None:
    with MemoryRegistry() as server:
        registry = client(server)
        data = b"new" * 100_000
        digest = oci.digest_of(data)
        assert not registry.has_blob(REFERENCE, digest)
        registry.push_blob(REFERENCE, digest, len(data), io.BytesIO(data))
        assert registry.has_blob(REFERENCE, digest)
        assert server.blobs[digest] == data
        put = server.requests[-2]
        assert put.target == f"/v2/a/b/blobs/uploads/1?_state=x&digest={digest.replace(':', '%3A')}"
        assert "transfer-encoding" not in put.headers
        count = len(server.requests)
        registry.push_blob(REFERENCE, digest, len(data), io.BytesIO(data))
        assert len(server.requests) == count + 1
        assert registry.push_manifest(REFERENCE, MANIFEST, oci.OCI_INDEX) == oci.digest_of(MANIFEST)
        assert server.requests[-1].target == "/v2/a/b/manifests/latest"
        assert server.requests[-1].headers["content-type"] == oci.OCI_INDEX
        registry.push_manifest(oci.Reference("h", "a/b"), MANIFEST, oci.OCI_INDEX)
        assert server.requests[-1].target == f"/v2/a/b/manifests/{oci.digest_of(MANIFEST)}"
        assert registry.has_manifest(REFERENCE, oci.digest_of(MANIFEST))


def test_a_push_is_tried_again_with_the_whole_blob() -> None:
    failures = [Reply(503), Reply(500, b"", {"Retry-After": "9999"})]

    def guard(asked: Asked) -> Reply | None:
        return failures.pop() if asked.method == "PUT" and failures else None

    with MemoryRegistry(guard) as server:
        client(server).push_blob(REFERENCE, oci.digest_of(b"new"), 3, io.BytesIO(b"new"))
        assert server.blobs[oci.digest_of(b"new")] == b"new"
        assert [a.body for a in server.requests if a.method == "PUT"] == [b"new"] * 3


def test_a_push_that_stays_refused_ends() -> None:
    guard = lambda asked: Reply(500) if asked.method == "POST" else None  # noqa: E731
    with MemoryRegistry(guard) as server:
        with pytest.raises(SourceError, match="answers 500"):
            client(server).push_blob(REFERENCE, oci.digest_of(b"new"), 3, io.BytesIO(b"new"))
        assert len([a for a in server.requests if a.method == "POST"]) == 3


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/x", "https://127.0.0.1/", "", "\\\\evil"])
def test_an_upload_is_not_sent_elsewhere(location: str) -> None:
    def guard(asked: Asked) -> Reply | None:
        return Reply(202, b"", {"Location": location}) if asked.method == "POST" else None

    with MemoryRegistry(guard) as server:
        with pytest.raises(SourceError, match="redirects to"):
            client(server).push_blob(REFERENCE, oci.digest_of(b"new"), 3, io.BytesIO(b"new"))
        assert all(asked.method != "PUT" for asked in server.requests)


def test_which_registry_and_mirrors_are_asked() -> None:
    entries = {
        "docker.io": config.RegistrySettings(mirrors=("http://m:1/path/", "https://m2")),
        "plain:5000": config.RegistrySettings(insecure=True),
    }
    settings = config.Settings(registry=entries)
    transport = Transport(1, environment={})
    assert registry_client("docker.io", settings, transport).name == (
        "registry https://registry-1.docker.io"
    )
    assert registry_client("plain:5000", settings, transport).name == "registry http://plain:5000"
    assert registry_client("tls:5000", settings, transport).name == "registry https://tls:5000"
    names = [mirror.name for mirror in mirror_clients("docker.io", settings, transport)]
    assert names == ["mirror http://m:1/path/", "mirror https://m2"]
    assert mirror_clients("tls:5000", settings, transport) == []
    bad = config.Settings(registry={"r": config.RegistrySettings(mirrors=("m:5000",))})
    with pytest.raises(ConfigError):
        mirror_clients("r", bad, transport)
