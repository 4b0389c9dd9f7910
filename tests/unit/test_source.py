"""The Source: which places are asked in which order, verified reads, a bounded look, file URLs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Authority
from servers import HOST, Asked, HttpServer, RawServer, Reply, StaticServer, Wire, ranged

from composeapps import config, oci
from composeapps.bounds import Bounds, StoppedError
from composeapps.errors import (
    ConfigError,
    IntegrityError,
    NotFoundError,
    SourceError,
    TransientError,
)
from composeapps.source import Source

MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": []}).encode()
DIGEST = oci.digest_of(MANIFEST)
BLOB_PATH = f"/oci/blobs/sha256/{oci.hex_of(DIGEST)}"
QUICK = Bounds(backoff=0.01, backoff_cap=0.02, retry_after=0.05)


def make(
    registry: str = "registry.test", *, entry: dict[str, object] | None = None, **source: object
) -> Source:
    values = {"timeout": 2.0, "attempts": 2, **source}
    text = {"source": values, "registry": {registry: entry or {"insecure": True}}}
    return Source(config.parse(text, "test"), bounds=QUICK)


def read(source: Source, registry: str = "127.0.0.1:1", limit: int = 1000) -> bytes:
    return source.read(oci.Reference(registry, "a/b"), DIGEST, limit, kind="manifest")


def registry_answer(asked: Asked) -> Reply:
    return ranged(asked, MANIFEST) if asked.target.startswith("/v2/") else Reply(404)


# Places


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


# Downloads


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


# Metadata


def test_get_with_an_entity_tag() -> None:
    with StaticServer({"/metadata/timestamp.json": b"{}"}) as web:
        source = make(url=web.url)
        url = f"{source.metadata_url}/timestamp.json"
        first = source.get(url, 100)
        assert (first.status, first.body) == (200, b"{}")
        again = source.get(url, 100, first.etag)
        assert (again.status, again.body, again.etag) == (304, b"", first.etag)
        assert source.get(url, 100, '"other"').status == 200
        assert "if-none-match" not in web.requests[0].headers
        assert source.stats.connections == 1


def test_an_unchanged_look_costs_little() -> None:
    with StaticServer({"/metadata/timestamp.json": b"x" * 2000}) as web:
        source = make(url=web.url)
        url = f"{source.metadata_url}/timestamp.json"
        tag = source.get(url, 5000).etag
        before = source.stats.received + source.stats.sent
        assert source.get(url, 5000, tag).status == 304
        assert source.stats.received + source.stats.sent - before < 400


@pytest.mark.parametrize(
    "etag", ["plain", '"a\r\nX: y"', '"ü"', '"' + "x" * 300 + '"', '"a"b', "W/", '""\n']
)
def test_odd_entity_tags_are_dropped(etag: str) -> None:
    with HttpServer(lambda _: Reply(200, b"x", {"ETag": etag.replace("\r\n", " ")})) as web:
        source = make(url=web.url)
        if "\n" not in etag:
            assert source.get(f"{web.url}/x", 10).etag == ""
        assert source.get(f"{web.url}/x", 10, etag).status == 200
        assert all("if-none-match" not in asked.headers for asked in web.requests)


def test_an_unasked_304_is_an_error() -> None:
    with HttpServer(lambda _: Reply(304)) as web, pytest.raises(SourceError, match="answers 304"):
        make(url=web.url).get(f"{web.url}/x", 10)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_missing_metadata(status: int) -> None:
    with HttpServer(lambda _: Reply(status)) as web:
        with pytest.raises(NotFoundError):
            make(url=web.url).get(f"{web.url}/x", 10)
        assert len(web.requests) == 1


def test_metadata_is_tried_again_and_bounded() -> None:
    answers = [Reply(502)]
    with HttpServer(lambda _: answers.pop() if answers else Reply(200, b"x" * 50)) as web:
        source = make(url=web.url)
        assert len(source.get(f"{web.url}/x", 50).body) == 50
        with pytest.raises(SourceError, match="more than the 49 bytes"):
            source.get(f"{web.url}/x", 49)


def test_a_whole_look_has_a_byte_limit() -> None:
    with HttpServer(lambda _: Reply(200, b"x" * 512)) as web:
        source = make(url=web.url, check_bytes=1044)
        for _ in range(2):
            source.get(f"{web.url}/x", 1000)
        with pytest.raises(SourceError, match="more than the 20 bytes"):
            source.get(f"{web.url}/x", 1000)


def slowly(seconds: float) -> Callable[[Asked], Reply]:
    def answer(asked: Asked) -> Reply:
        time.sleep(seconds)
        return Reply(200, b"x")

    return answer


def test_a_whole_look_has_a_deadline() -> None:
    with HttpServer(slowly(0.4)) as web:
        source = make(url=web.url, check_timeout=1.0, attempts=9)
        begun = time.monotonic()
        with pytest.raises(TransientError, match="whole look"):
            for _ in range(9):
                source.get(f"{web.url}/x", 10)
        assert time.monotonic() - begun < 2
        web.answer = slowly(0)
        time.sleep(1.1)  # the next look
        assert source.get(f"{web.url}/x", 10).body == b"x"


def test_metadata_from_files(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    path = tmp_path / "metadata" / "1.root.json"
    path.write_bytes(b"{}")
    source = make(url=f"file://{tmp_path}")
    url = f"{source.metadata_url}/1.root.json"
    first = source.get(url, 10)
    assert (first.status, first.body) == (200, b"{}")
    assert source.get(url, 10, first.etag).status == 304
    path.write_bytes(b"{ }")
    assert source.get(url, 10, first.etag).body == b"{ }"
    with pytest.raises(SourceError, match="more than the 2 bytes"):
        source.get(url, 2)
    with pytest.raises(NotFoundError):
        source.get(f"{source.metadata_url}/2.root.json", 10)


# Reports


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_a_report_is_delivered(status: int) -> None:
    with HttpServer(lambda _: Reply(status)) as server:
        make().post(f"{server.url}/events", b'{"events": []}')
        (asked,) = server.requests
        assert (asked.method, asked.target, asked.body) == ("POST", "/events", b'{"events": []}')
        assert asked.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500),
        Reply(404),
        Reply(302, b"", {"Location": "/x"}),
        Reply(503, b"", {"Retry-After": "999999"}),
    ],
)
def test_a_report_that_was_not_taken(reply: Reply) -> None:
    with HttpServer(lambda _: reply) as server:
        with pytest.raises(SourceError):
            make().post(server.url, b"{}")
        assert len(server.requests) == 1


def test_reports_have_tls_files_of_their_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine = authority.issue("device-1", client=True)
    context = authority.server_context(authority.issue(HOST), clients=True)
    with HttpServer(lambda _: Reply(204), context=context) as server:
        files = {
            "ca": str(authority.path),
            "client_certificate": str(mine.certificate),
            "client_key": str(mine.key),
        }
        Source(config.parse({"report": files}, "test"), bounds=QUICK).post(server.url, b"{}")
        with pytest.raises(SourceError, match="not accepted"):
            Source(config.parse({"source": files}, "test")).post(server.url, b"{}")
        assert len(server.requests) == 1


def test_no_source_is_set() -> None:
    source = make()
    for url in (source.metadata_url, source.targets_url):
        with pytest.raises(ConfigError, match=r"set source\.url"):
            source.get(f"{url}/timestamp.json", 10)


def test_nothing_heavy_is_imported_before_a_source_is_made() -> None:
    code = (
        "import composeapps.source, sys; sys.exit('urllib3' in sys.modules or 'ssl' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
