"""URL rules: what is taken, where redirects may lead, which proxy is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composeapps import urls
from composeapps.errors import ConfigError, SourceError


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://host/x", ("https", "host", 443)),
        ("http://HOST:8080/x?y=1", ("http", "host", 8080)),
        ("https://[::1]:5000/", ("https", "[::1]", 5000)),
        ("https://a.b-c_d.example:443", ("https", "a.b-c_d.example", 443)),
    ],
)
def test_origin(url: str, origin: tuple[str, str, int]) -> None:
    assert urls.origin(url) == urls.Origin(*origin)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/", "host", "", "https://", "https:///x", "http://user@host/",
        "http://user:pw@host/", "http://host\\@evil/", "http://ho st/", "http://host/\r\nX: y",
        "http://host/#x", "http://host:0/", "http://host:99999/", "http://host:x/",
        "http://hö.example/", "http://[::1/", "http://[fe80::1%25eth0]/", "http://h/" + "a" * 9000,
        "http://host%2f/", "http://a,b/", "file:///etc/passwd", "javascript:x",
    ],
)  # fmt: skip
def test_unusable_urls(url: str) -> None:
    with pytest.raises(ConfigError):
        urls.origin(url)


@given(st.text(max_size=60), st.text(max_size=60))
def test_origin_and_redirect_never_leak_another_error(left: str, right: str) -> None:
    for text in (left, f"http://{left}", f"https://{left}/{right}"):
        try:
            urls.origin(text)
        except ConfigError as error:
            assert str(error).isprintable()
        try:
            target = urls.redirect("https://host:1/a/b", text)
        except SourceError as error:
            assert str(error).isprintable()
        else:
            assert urls.origin(target) == urls.Origin("https", "host", 1)


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/c", "https://host/c"),
        ("c?x=1", "https://host/a/c?x=1"),
        ("https://host:443/c", "https://host:443/c"),
        ("https://HOST/c#part", "https://HOST/c"),
        ("//host/c", "https://host/c"),
        ("../../../c", "https://host/c"),
    ],
)
def test_redirect_on_the_same_origin(location: str, target: str) -> None:
    assert urls.redirect("https://host/a/b", location) == target


@pytest.mark.parametrize(
    "location",
    [
        "http://host/c", "https://host:444/c", "https://other/c", "//other/c",
        "https://127.0.0.1/c", "https://host.evil/c", "https://host@evil/c", "file:///etc/passwd",
        "https://evil\\@host/", "gopher://host/", "https://host\t.evil/", "http://[::1", "\x00",
        "", "#x", "/a b", "/a\r\nX: y",
    ],
)  # fmt: skip
def test_redirect_elsewhere_is_refused(location: str) -> None:
    with pytest.raises(SourceError, match="redirects to"):
        urls.redirect("https://host/a/b", location)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("169.254.169.254", False), ("172.16.0.1", False), ("100.64.0.1", False), ("::1", False),
        ("fe80::1%eth0", False), ("fd00::1", False), ("::ffff:127.0.0.1", False),
        ("0.0.0.0", False), ("host", False), ("", False),  # noqa: S104
    ],
)  # fmt: skip
def test_public_addresses(address: str, public: bool) -> None:
    assert urls.is_public(address) is public


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("a.localhost.", True), ("printer.local", True), ("127.1", True),
        ("0x7f000001", True), ("2130706433", True), ("[::1]", True), ("192.168.0.1", True),
        ("8.8.8.8", False), ("registry.example.com", False), ("10.example.com", False),
    ],
)  # fmt: skip
def test_local_names(host: str, local: bool) -> None:
    assert urls.is_local_name(host) is local


@pytest.mark.parametrize(
    ("host", "other", "related"),
    [
        ("registry-1.docker.io", "auth.docker.io", True),
        ("registry.gitlab.com", "gitlab.com", True),
        ("a.example", "a.example", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "9.0.0.1", False),
        ("8.8.0.1", "9.9.0.1", False),
        ("docker.io.evil.example", "docker.io", False),
        ("[::ffff:8.8.0.1]", "[::ffff:9.9.0.1]", False),
        ("a.xn--p1ai", "b.a.xn--p1ai", True),
        ("localhost", "evil", False),
        ("registry", "registry.example.com", False),
    ],
)
def test_related_hosts(host: str, other: str, related: bool) -> None:
    assert urls.related(host, other) is related


ENVIRONMENT = {
    "http_proxy": "http://lower:1",
    "HTTP_PROXY": "http://upper:1",
    "HTTPS_PROXY": "secure:3128",
    "no_proxy": "exact.example, .dotted.example,*.star.example,port.example:8443,"
    "10.0.0.0/8,[fd00::1]",
}


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://host/", "http://lower:1"),
        ("https://host/", "http://secure:3128"),
        ("http://exact.example/", ""),
        ("http://below.exact.example/", ""),
        ("http://inexact.example/", "http://lower:1"),
        ("http://a.dotted.example/", ""),
        ("http://a.star.example/", ""),
        ("https://port.example:8443/", ""),
        ("https://port.example/", "http://secure:3128"),
        ("http://10.200.3.4/", ""),
        ("http://11.200.3.4/", "http://lower:1"),
        ("http://[fd00::1]/", ""),
        ("http://localhost/", ""),
        ("http://127.8.9.1/", ""),
        ("http://[::1]/", ""),
    ],
)
def test_proxy_of_the_environment(url: str, proxy: str) -> None:
    assert urls.proxy_for(url, ENVIRONMENT) == proxy


def test_proxy_corner_cases() -> None:
    assert urls.proxy_for("http://h/", {}) == ""
    assert urls.proxy_for("http://h/", {"all_proxy": "p:1"}) == "http://p:1"
    assert urls.proxy_for("http://h/", {"http_proxy": "p:1", "no_proxy": "*"}) == ""
    assert urls.proxy_for("http://h/", {"HTTP_PROXY": "p:1"}) == "http://p:1"
    assert urls.proxy_for("http://h/", {"HTTP_PROXY": "p:1", "REQUEST_METHOD": "GET"}) == ""
    login = "http://me:a%40b@p:1"
    assert urls.proxy_for("http://h/", {"http_proxy": login}) == login
    assert urls.proxy_login(login) == ("http://p:1", "me:a@b")
    for bad in ("socks5://p:1", "http://p:x", "http://p q", "http://"):
        with pytest.raises(ConfigError, match="proxy"):
            urls.proxy_for("http://h/", {"http_proxy": bad})


def test_local_paths() -> None:
    assert urls.local_path("/a b") == Path("/a b")
    assert urls.local_path("file:///a%20b") == Path("/a b")
    assert urls.local_path("file://localhost/a") == Path("/a")
    assert urls.local_path("https://host/a") is None
    for bad in ("file://host/a", "file:a", "file:///a%00b", "file://localhost.evil/"):
        with pytest.raises(ConfigError):
            urls.local_path(bad)


def test_printable() -> None:
    assert urls.printable("a\x1b[31m\nb\u202e", 6) == "a?[31m"
