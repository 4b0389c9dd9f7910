"""HTTP against real servers that lie, stall, flood, redirect and break off in every way."""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from servers import Asked, HttpServer, RawServer, Reply, StaticServer, Wire
from transportparts import OK, QUICK, UNKNOWN, drip, get, replying, transport

from composeapps.answers import Request
from composeapps.bounds import Bounds, StoppedError
from composeapps.errors import NotFoundError, SourceError, TransientError


def test_a_plain_answer_and_what_was_sent() -> None:
    with StaticServer({"/a": b"hello"}) as server:
        client = transport()
        answer = client.fetch(Request(f"{server.url}/a", 5), 200)
        assert (answer.status, answer.body) == (200, b"hello")
        asked = server.requests[0]
        assert asked.headers["user-agent"].startswith("composeapps/")
        assert asked.headers["accept-encoding"] == "identity"
        assert "cookie" not in asked.headers
        assert client.stats.requests == client.stats.connections == 1
        assert client.stats.received > 5
        assert client.stats.sent > 30


def test_a_body_that_arrives_with_its_headers_is_not_taken_for_them() -> None:
    body = b"x" * 50_000
    with RawServer(replying(OK + f"Content-Length: {len(body)}\n", body)) as server:
        small = transport(bounds=replace(QUICK, header_bytes=100))
        assert small.fetch(Request(server.url, len(body)), 200).body == body


def test_connections_are_used_again() -> None:
    with StaticServer({"/a": b"hello"}) as server:
        client = transport()
        for _ in range(3):
            client.fetch(Request(f"{server.url}/a", 5), 200)
            with pytest.raises(NotFoundError):
                client.fetch(Request(f"{server.url}/b", 5), 200)
            client.fetch(Request(f"{server.url}/a", 5, method="HEAD"), 200)
        assert server.connections == 1
        assert client.stats.requests == 9


def test_no_cookies() -> None:
    with HttpServer(lambda _: Reply(headers={"Set-Cookie": "a=b"})) as server:
        client = transport()
        client.fetch(Request(server.url, 5), 200)
        client.fetch(Request(server.url, 5), 200)
        assert all("cookie" not in asked.headers for asked in server.requests)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (replying(OK + "Content-Length: 50\n", b"x" * 50), "more than the 20 bytes"),
        (replying(OK, b"x" * 50), "more than the 20 bytes"),
        (replying(OK + "Content-Length: 10\n", b"x" * 5), "IncompleteRead|5 more expected"),
        (replying(OK + "Transfer-Encoding: chunked\n", b"5\r\nhel"), "IncompleteRead|incomplete"),
        (replying(OK + "Transfer-Encoding: chunked\n", b"zz\r\n"), "chunk|literal|Incomplete"),
        (replying(OK + "Transfer-Encoding: chunked\n", b"-5\r\n"), "answer|more|Incomplete|chunk"),
        (replying(OK + "Transfer-Encoding: chunked\n", b"f" * 70000), "line|chunk|long|larger"),
        (replying(OK + "Content-Encoding: gzip\nContent-Length: 1\n", b"x"), "encoded"),
        (replying(OK + "Content-Encoding: gzip, identity\nContent-Length: 1\n", b"x"), "encoded"),
        (replying("not http at all\n"), "not http"),
        (replying("HTTP/1.1 abc\n"), "abc"),
        (replying("HTTP/1.1 99999 x\n"), "99999"),
        (replying("HTTP/1.1 700 x\n"), "makes no sense"),
        (replying("HTTP/1.1 103 x\n"), "makes no sense"),
        (replying("HTTP/1.1 304 x\n"), "answers 304"),
        (replying("HTTP/1.1 206 x\nContent-Range: bytes 0-1/2\n"), "answers 206"),
        (lambda wire: wire.reset(), "reset|aborted|without response"),
        (lambda wire: None, "without response|aborted|reset"),
        (replying(OK + "X: " + "y" * 100_000 + "\n"), "larger than allowed|line"),
        (replying(OK + "X: y\n" * 500), "headers"),
        (replying(OK + ("X" * 500 + ": y\n") * 90 * 3), "larger than allowed|headers"),
    ],
)
def test_a_bad_answer_is_a_source_error(script: Callable[[Wire], None], words: str) -> None:
    with RawServer(script) as server, pytest.raises(SourceError, match=words) as caught:
        get(server.url, limit=20)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 500


def flood(wire: Wire) -> None:
    wire.request()
    wire.send(OK.replace("\n", "\r\n") + "\r\n")
    while True:
        wire.send(b"x" * 65536)


def test_an_endless_body_is_cut() -> None:
    with RawServer(flood) as server:
        client = transport()
        with pytest.raises(SourceError, match="more than the 100000"):
            client.fetch(Request(server.url, 100_000), 200)
        assert client.stats.received < 100_000 + 20_000


def test_endless_headers_are_cut() -> None:
    def script(wire: Wire) -> None:
        wire.request()
        wire.send("HTTP/1.1 200 ok\r\n")
        while True:
            wire.send("X-Long: " + "y" * 60_000 + "\r\n")

    with RawServer(script) as server:
        client = transport()
        with pytest.raises(SourceError, match="headers are larger than allowed"):
            client.fetch(Request(server.url, 100), 200)
        assert client.stats.received < 100_000


def test_endless_continue_answers_are_cut() -> None:
    def script(wire: Wire) -> None:
        wire.request()
        while True:
            wire.send("HTTP/1.1 100 Continue\r\n\r\n" * 100)

    with RawServer(script) as server, pytest.raises(SourceError, match="larger than allowed"):
        get(server.url)


def test_endless_trailers_are_cut() -> None:
    def script(wire: Wire) -> None:
        wire.request()
        wire.send("HTTP/1.1 200 ok\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        while True:
            wire.send("X: y\r\n" * 1000)

    with RawServer(script) as server, pytest.raises(SourceError, match="larger than allowed"):
        get(server.url)


@pytest.mark.parametrize(
    "before",
    [b"", b"HTTP/1.1 200 ok\r\nX-Slow: ", b"HTTP/1.1 200 ok\r\nContent-Length: 99999\r\n\r\n"],
)
def test_a_slow_drip_ends_by_the_minimum_rate(before: bytes) -> None:
    with RawServer(drip(before=before)) as server:
        begun = time.monotonic()
        with pytest.raises(TransientError, match="slower than 1000 bytes per second"):
            get(server.url)
        assert 0.9 < time.monotonic() - begun < 3


def test_a_drip_above_the_minimum_rate_ends_by_the_deadline() -> None:
    with RawServer(drip(before=b"HTTP/1.1 200 ok\r\n\r\n", pause=0.0001)) as server:
        client = transport(bounds=replace(QUICK, minimum_rate=1))
        begun = time.monotonic()
        with pytest.raises(TransientError, match="longer than the whole look may"):
            client.fetch(Request(server.url, 10_000_000, deadline=begun + 1), 200)
        assert time.monotonic() - begun < 2


def test_a_silent_server_ends_by_the_read_timeout() -> None:
    with RawServer(lambda wire: time.sleep(10)) as server:
        begun = time.monotonic()
        with pytest.raises(TransientError, match="sent nothing for 1 s"):
            transport(bounds=Bounds()).fetch(Request(server.url, 10), 200)
        assert 0.9 < time.monotonic() - begun < 2.5


def test_a_server_that_reads_nothing_ends_by_the_timeout() -> None:
    with RawServer(lambda wire: time.sleep(10)) as server:
        body = b"x" * 20_000_000
        with pytest.raises(TransientError, match="in time"):
            get(server.url, method="PUT", body=body)


def test_a_silent_tls_server_ends_by_the_timeout() -> None:
    with RawServer(lambda wire: time.sleep(10)) as server:
        begun = time.monotonic()
        with pytest.raises(TransientError, match="in time"):
            get(server.url.replace("http", "https"))
        assert time.monotonic() - begun < 2.5


def test_stop_ends_a_read_soon() -> None:
    stop = threading.Event()
    with RawServer(lambda wire: time.sleep(20)) as server:
        threading.Timer(0.3, stop.set).start()
        begun = time.monotonic()
        with pytest.raises(StoppedError):
            get(server.url, timeout=15, stop=stop)
        assert time.monotonic() - begun < 2


def test_nobody_listens_and_nobody_is_called_that() -> None:
    with RawServer(flood) as server:
        url = server.url
    with pytest.raises(TransientError, match=r"cannot connect to 127\.0\.0\.1:.*refused"):
        get(url)
    with pytest.raises(TransientError, match="no address for"):
        get(f"http://{UNKNOWN}/")


def test_redirects_on_the_same_origin_are_followed_with_the_login() -> None:
    def answer(asked: Asked) -> Reply:
        step = int(asked.target.strip("/"))
        return Reply(body=b"end") if step == 3 else Reply(302, b"go", {"Location": f"/{step + 1}"})

    with HttpServer(answer) as server:
        response = get(f"{server.url}/0", headers={"Authorization": "Basic x"})
        assert response.body == b"end"
        assert [a.headers.get("authorization") for a in server.requests] == ["Basic x"] * 4


def test_a_redirect_loop_ends() -> None:
    with HttpServer(lambda _: Reply(301, b"", {"Location": "/again"})) as server:
        with pytest.raises(SourceError, match="more than 3 redirects"):
            get(server.url)
        assert len(server.requests) == 4


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_port_of_the_device_is_not_followed(status: int) -> None:
    with StaticServer({"/secret": b"x"}) as victim:
        reply = Reply(status, b"", {"Location": f"{victim.url}/secret"})
        with HttpServer(lambda _: reply) as server, pytest.raises(SourceError, match="mirror"):
            get(server.url)
        assert victim.connections == 0


def test_a_redirect_of_an_upload_is_not_followed() -> None:
    with HttpServer(lambda _: Reply(307, b"", {"Location": "/x"})) as server:
        with pytest.raises(SourceError, match="redirect of PUT"):
            get(server.url, method="PUT", body=b"x")
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, NotFoundError), (410, NotFoundError), (400, SourceError), (401, SourceError),
     (403, SourceError), (408, TransientError), (429, TransientError), (500, TransientError),
     (503, TransientError), (501, SourceError)],
)  # fmt: skip
def test_statuses(status: int, kind: type[SourceError]) -> None:
    body = b'{"errors": [{"code": "NOPE", "message": "go\\u001b[31m away"}]}'
    with HttpServer(lambda _: Reply(status, body)) as server, pytest.raises(SourceError) as caught:
        get(server.url, limit=1)
    assert type(caught.value) is kind
    assert "(NOPE go?[31m away)" in str(caught.value)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"errors": 1}', b'{"errors": [1]}', b"[" * 9000, b"\xff" * 99]
)
def test_error_bodies_of_any_kind(body: bytes) -> None:
    with HttpServer(lambda _: Reply(500, body)) as server, pytest.raises(TransientError):
        get(server.url)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3.0), ("0", 0.0), ("999999999", 7.0), ("9" * 5000, 7.0), ("-5", None), ("soon", None),
     ("", None), ("1e9", None), ("²", None), ("Fri, 31 Dec 9999 23:59:59 GMT", 7.0),
     ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("Fri, 99 Foo 99999 1:1:1 GMT", None),
     # By name: two processes that share the tests out read the clock at different moments.
     pytest.param(email.utils.formatdate(time.time() + 3600, usegmt=True), 7.0, id="in an hour")],
)  # fmt: skip
def test_retry_after_is_capped(text: str, seconds: float | None) -> None:
    reply = Reply(429, b"", {"Retry-After": text})
    with HttpServer(lambda _: reply) as server, pytest.raises(TransientError) as caught:
        get(server.url)
    assert caught.value.retry_after == seconds
