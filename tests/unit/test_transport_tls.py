"""TLS, client certificates, proxies, and whatever bytes come."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from certificates import Authority
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import HOST, Proxy, RawServer, StaticServer, Wire
from transportparts import OK, UNKNOWN, drip, get, replying, transport

from composeapps.answers import Request, Tls
from composeapps.errors import ConfigError, SourceError, TransientError


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def secure(authority: Authority, *names: str, clients: bool = False) -> StaticServer:
    context = authority.server_context(authority.issue(*names), clients=clients)
    return StaticServer({"/a": b"hello"}, context=context)


def test_tls_with_the_right_authority(authority: Authority) -> None:
    with secure(authority, HOST) as server:
        client = transport()
        request = Request(f"{server.url}/a", 5, tls=Tls(ca=str(authority.path)))
        assert client.fetch(request, 200).body == b"hello"
        assert client.fetch(request, 200).body == b"hello"
        assert server.connections == 1


def test_tls_drip_is_bounded_too(authority: Authority) -> None:
    context = authority.server_context(authority.issue(HOST))
    with RawServer(drip(before=b"HTTP/1.1 200 ok\r\n\r\n"), context=context) as server:
        begun = time.monotonic()
        with pytest.raises(TransientError, match="slower than"):
            get(server.url, tls=Tls(ca=str(authority.path)))
        assert time.monotonic() - begun < 3


def test_tls_that_is_not_to_be_trusted(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other authority")
    with secure(authority, HOST) as server:
        for tls in (Tls(), Tls(ca=str(other.path))):
            with pytest.raises(SourceError, match=r"not accepted.*ca setting") as caught:
                get(server.url, tls=tls)
            assert not isinstance(caught.value, TransientError)
        assert server.requests == []
    with secure(authority, "other.example", "127.0.0.2") as server:
        with pytest.raises(SourceError, match="certificate is not accepted"):
            get(server.url, tls=Tls(ca=str(authority.path)))
        assert server.requests == []
    late = authority.server_context(authority.issue(HOST, days=(-9, -1)))
    with (
        StaticServer({}, context=late) as server,
        pytest.raises(SourceError, match=r"expired.*clock"),
    ):
        get(server.url, tls=Tls(ca=str(authority.path)))


def test_client_certificates(authority: Authority, tmp_path: Path) -> None:
    mine = authority.issue("device-1", client=True)
    foreign = Authority(tmp_path, "other authority").issue("device-1", client=True)
    ca = str(authority.path)
    with secure(authority, HOST, clients=True) as server:
        tls = Tls(ca, str(mine.certificate), str(mine.key))
        assert get(f"{server.url}/a", tls=tls).body == b"hello"
        for bad in (Tls(ca), Tls(ca, str(foreign.certificate), str(foreign.key))):
            with pytest.raises(SourceError):
                get(f"{server.url}/a", tls=bad)
        assert len(server.requests) == 1


def test_tls_files_that_cannot_be_used(authority: Authority, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    ca, bad = str(authority.path), str(garbage)
    for tls in (Tls("/nowhere.pem"), Tls(bad), Tls(ca, bad), Tls(ca, ca), Tls(ca, ca, "/nowhere")):
        with pytest.raises(ConfigError, match="TLS files of the settings"):
            get("https://127.0.0.1:1/", tls=tls)


def test_http_goes_through_the_proxy() -> None:
    with StaticServer({"/a": b"hello"}) as server:
        names = {"origin.test": server.port}
        with Proxy(names, login="me:a@b") as proxy:
            client = transport(http_proxy=f"http://me:a%40b@{proxy.netloc}")
            assert client.fetch(Request("http://origin.test/a", 5), 200).body == b"hello"
            assert proxy.requests[0].target == "http://origin.test/a"
        assert "proxy-authorization" not in server.requests[0].headers


def test_https_goes_through_a_tunnel_of_the_proxy(authority: Authority) -> None:
    tls = Tls(ca=str(authority.path))
    with secure(authority, "origin.test") as server:
        with Proxy({"origin.test": server.port}, login="me:pw") as proxy:
            client = transport(HTTPS_PROXY=f"me:pw@{proxy.netloc}")
            request = Request("https://origin.test/a", 5, tls=tls)
            assert client.fetch(request, 200).body == b"hello"
            assert proxy.requests[0].method == "CONNECT"
            assert "proxy-authorization" not in server.requests[0].headers
        with Proxy({"origin.test": server.port}, login="me:pw") as proxy:
            client = transport(https_proxy=proxy.url)
            with pytest.raises(TransientError, match="407"):
                client.fetch(Request("https://origin.test/a", 5, tls=tls), 200)


def test_no_proxy_and_this_machine_are_asked_directly() -> None:
    with StaticServer({"/a": b"hello"}) as server:
        dead = "http://127.0.0.1:9"
        assert transport(http_proxy=dead).fetch(Request(f"{server.url}/a", 5), 200).status == 200
        client = transport(http_proxy=dead, no_proxy=UNKNOWN)
        with pytest.raises(TransientError, match="no address for"):
            client.fetch(Request(f"http://{UNKNOWN}/a", 5), 200)


def test_a_proxy_that_floods_its_headers_is_cut() -> None:
    def script(wire: Wire) -> None:
        wire.request()
        wire.send("HTTP/1.1 200 ok\r\n")
        while True:
            wire.send("X: y\r\n" * 1000)

    with RawServer(script) as proxy, pytest.raises(SourceError):
        transport(https_proxy=proxy.url).fetch(Request("https://origin.test/", 5), 200)


def test_a_host_that_is_no_name_is_a_source_error_behind_a_proxy_too() -> None:
    """A token server's name comes from a registry; Python's own codec rejects this one."""
    with StaticServer({}) as server, Proxy({UNKNOWN: server.port}) as proxy:
        reach = transport(https_proxy=proxy.url)
        with pytest.raises(SourceError):
            reach.fetch(Request(f"https://{UNKNOWN}/", 5), 200)


def test_a_proxy_that_cannot_be_used_is_named() -> None:
    with pytest.raises(ConfigError, match="proxy in the environment"):
        transport(http_proxy="socks5://x:1").fetch(Request("http://origin.test/", 5), 200)


@settings(max_examples=150)
@given(
    st.lists(
        st.sampled_from(
            [b"HTTP/1.1 ", b"200", b"404", b" ok\r\n", b"\r\n", b"Content-Length: ", b"-1", b"5",
             b"99999999999999999999", b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: br",
             b"\r\n", b"Location: ", b"/", b"http://[", b"\xff\xfe", b"\x00", b"hello", b": ",
             b"0\r\n\r\n", b"ffffffffffffffffffffffff\r\n", b"HTTP/0.9 ", b"\n", b" ",
             b"Retry-After: "]
        )
        | st.binary(max_size=20),
        max_size=20,
    )
)  # fmt: skip
def test_any_bytes_give_an_answer_or_a_source_error(pieces: list[bytes]) -> None:
    def script(wire: Wire) -> None:
        wire.request()
        wire.send(b"".join(pieces))

    with RawServer(script) as server:
        try:
            get(server.url, limit=10)
        except SourceError as error:
            assert str(error).isprintable()


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_after_good_headers(data: bytes) -> None:
    for head in (OK + "Transfer-Encoding: chunked\n", OK + "Content-Length: 7\n", OK):
        with RawServer(replying(head, data)) as server:
            try:
                assert len(get(server.url, limit=50).body) <= 50
            except SourceError as error:
                assert str(error).isprintable()
