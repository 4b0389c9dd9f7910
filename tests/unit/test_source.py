"""The Source: which places are asked in which order, verified reads, downloads."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from certificates import Authority
from servers import HOST, Asked, HttpServer, RawServer, Reply, StaticServer, Wire, ranged
from sourceparts import make

from composeapps import oci
from composeapps.bounds import StoppedError
from composeapps.errors import (
    ConfigError,
    IntegrityError,
    NotFoundError,
    SourceError,
)
from composeapps.source import Source

MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": []}).encode()


DIGEST = oci.digest_of(MANIFEST)


BLOB_PATH = f"/oci/blobs/sha256/{oci.hex_of(DIGEST)}"


def read(source: Source, registry: str = "127.0.0.1:1", limit: int = 1000) -> bytes:
    return source.read(oci.Reference(registry, "a/b"), DIGEST, limit, kind="manifest")


def registry_answer(asked: Asked) -> Reply:
    return ranged(asked, MANIFEST) if asked.target.startswith("/v2/") else Reply(404)


def test_layout_then_mirrors_then_the_registry() -> None:
    with (
        StaticServer({}) as web,
        HttpServer(lambda _: Reply(200, b"{}")) as liar,
        HttpServer(lambda _: Reply(500)) as down,
        HttpServer(registry_answer) as registry,
    ):
        entry: dict[str, object] = {"insecure": True, "mirrors": [liar.url, down.url]}
        source = make(registry.netloc, entry=entry, url=web.url)
        assert read(source, registry.netloc) == MANIFEST
        for server in (web, liar, down, registry):
            assert len(server.requests) == 1
        assert web.requests[0].target == BLOB_PATH
        assert down.requests[0].target == f"/v2/a/b/manifests/{DIGEST}"
        web.files = {BLOB_PATH: MANIFEST}
        assert read(source, registry.netloc) == MANIFEST
        assert len(liar.requests) == 1


def test_no_place_has_it() -> None:
    with StaticServer({}) as web, HttpServer(lambda _: Reply(404)) as registry:
        source = make(registry.netloc, url=web.url)
        with pytest.raises(NotFoundError, match=rf"{web.netloc}.*{registry.netloc}"):
            read(source, registry.netloc)
        assert len(web.requests) == len(registry.requests) == 1


def test_wrong_bytes_everywhere() -> None:
    with StaticServer({BLOB_PATH: b"x" * 5}) as web, HttpServer(lambda _: Reply(404)) as registry:
        source = make(registry.netloc, url=web.url)
        with pytest.raises(IntegrityError, match="do not have digest"):
            read(source, registry.netloc)
        with pytest.raises(IntegrityError, match="5 bytes instead of 3"):
            read(source, registry.netloc, limit=3)


def test_a_failure_that_may_pass_is_tried_again() -> None:
    answers = [Reply(503), Reply(404)]
    with HttpServer(lambda a: answers.pop() if answers else registry_answer(a)) as registry:
        source = make(registry.netloc)
        with pytest.raises(NotFoundError):
            read(source, registry.netloc)
        assert read(source, registry.netloc) == MANIFEST
        assert len(registry.requests) == 3


def test_a_long_body_without_a_length_is_cut_at_the_limit() -> None:
    def script(wire: Wire) -> None:
        wire.request()
        wire.send("HTTP/1.1 200 ok\r\n\r\n")
        while True:
            wire.send(b"x" * 65536)

    with RawServer(script) as server:
        source = make(server.netloc, layout="none")
        with pytest.raises(SourceError, match="more than the 1000 bytes"):
            read(source, server.netloc)
        assert source.stats.received < 20_000


def test_a_directory_as_layout(tmp_path: Path) -> None:
    blobs = tmp_path / "oci" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / oci.hex_of(DIGEST)).write_bytes(MANIFEST)
    for settings in (
        {"url": str(tmp_path)},
        {"url": f"file://{tmp_path}/"},
        {"layout": str(tmp_path / "oci")},
        {"layout": f"file://{tmp_path}/oci/"},
    ):
        source = make(**settings)  # type: ignore[arg-type]
        assert read(source) == MANIFEST
        assert source.stats.requests == 0
    with HttpServer(registry_answer) as registry:
        source = make(registry.netloc, url=str(tmp_path), layout="none")
        assert read(source, registry.netloc) == MANIFEST
        assert len(registry.requests) == 1


def test_locations() -> None:
    source = make(url="https://h/repo/", targets="https://t/x")
    assert source.metadata_url == "https://h/repo/metadata"
    assert source.targets_url == "https://t/x"
    for bad in (
        "ftp://h",
        "h/x",
        "https://user@h/",
        "https://h/?x",
        "file://host/x",
        "https://h o",
    ):
        for name in ("url", "metadata", "targets", "layout"):
            with pytest.raises(ConfigError):
                make(**{name: bad})  # type: ignore[arg-type]


def test_the_registry_is_reached_as_its_settings_say(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine = authority.issue("device-1", client=True)
    context = authority.server_context(authority.issue(HOST), clients=True)
    with HttpServer(registry_answer, context=context) as registry:
        entry: dict[str, object] = {
            "ca": str(authority.path),
            "client_certificate": str(mine.certificate),
            "client_key": str(mine.key),
        }
        assert read(make(registry.netloc, entry=entry), registry.netloc) == MANIFEST
        with pytest.raises(SourceError):
            read(make(registry.netloc, entry={"ca": str(authority.path)}), registry.netloc)


def test_the_source_settings_say_how_the_web_server_is_reached(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.server_context(authority.issue(HOST))
    with StaticServer({BLOB_PATH: MANIFEST, "/metadata/x": b"y"}, context=context) as web:
        source = make(url=web.url, ca=str(authority.path))
        assert read(source) == MANIFEST
        assert source.get(f"{source.metadata_url}/x", 10).body == b"y"
        with pytest.raises(SourceError, match="not accepted"):
            make(url=web.url).get(f"{web.url}/metadata/x", 10)


BLOBS = {oci.digest_of(data): data for data in (b"one" * 1000, b"two" * 1000, b"three" * 1000)}


def blob_answer(asked: Asked) -> Reply:
    data = BLOBS.get(asked.target.rpartition("/")[2])
    return Reply(404) if data is None else ranged(asked, data)


def test_download_all(tmp_path: Path) -> None:
    with HttpServer(blob_answer) as registry:
        source = make(registry.netloc)
        reference = oci.Reference(registry.netloc, "a/b")
        wanted = [
            (reference, oci.Descriptor("x", digest, len(data))) for digest, data in BLOBS.items()
        ]
        seen: dict[str, int] = {}
        spaces: list[int] = []
        paths = source.download_all(
            wanted * 2, tmp_path, progress=seen.__setitem__, space=spaces.append
        )
        assert {digest: path.read_bytes() for digest, path in paths.items()} == BLOBS
        assert seen == {digest: len(data) for digest, data in BLOBS.items()}
        assert sorted(spaces) == [3000, 3000, 5000]
        assert len(registry.requests) == 3
        assert registry.requests[0].target.startswith("/v2/a/b/blobs/sha256:")
        lost = oci.Descriptor("x", DIGEST, 5)
        with pytest.raises(NotFoundError):
            source.download_all([*wanted, (reference, lost)], tmp_path)


def test_cancel_ends_what_is_under_way_and_nothing_later(tmp_path: Path) -> None:
    digest, data = next(iter(BLOBS.items()))
    quick = threading.Event()

    def answer(asked: Asked) -> Reply:
        if not quick.is_set():
            time.sleep(20)
        return blob_answer(asked)

    with HttpServer(answer) as registry:
        source = make(registry.netloc, timeout=30.0)
        reference = oci.Reference(registry.netloc, "a/b")
        descriptor = oci.Descriptor("x", digest, len(data))
        threading.Timer(0.3, source.cancel).start()
        begun = time.monotonic()
        with pytest.raises(StoppedError):
            source.download(reference, descriptor, tmp_path)
        assert time.monotonic() - begun < 3
        quick.set()
        assert source.download(reference, descriptor, tmp_path).read_bytes() == data


def test_resolve_tag_asks_the_registry_itself() -> None:
    with HttpServer(lambda _: Reply(200, b"{}")) as mirror, HttpServer(registry_answer) as registry:
        entry: dict[str, object] = {"insecure": True, "mirrors": [mirror.url]}
        source = make(registry.netloc, entry=entry, url=mirror.url)
        found = source.resolve_tag(oci.Reference(registry.netloc, "a/b", "latest"))
        assert found.digest == DIGEST
        assert mirror.requests == []
