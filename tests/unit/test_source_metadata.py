"""The Source: a bounded look at metadata, file URLs, reports."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Authority
from servers import HOST, Asked, HttpServer, Reply, StaticServer
from sourceparts import QUICK, make

from composeapps import config
from composeapps.errors import (
    ConfigError,
    NotFoundError,
    SourceError,
    TransientError,
)
from composeapps.source import Source


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
