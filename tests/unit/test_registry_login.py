"""Logins to registries: passwords, tokens and their servers, and where a password never goes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from certificates import Authority
from hypothesis import given
from hypothesis import strategies as st
from registryparts import BASIC, BLOB, QUICK, MemoryRegistry, client, pull, wants
from servers import HOST, Asked, HttpServer, Proxy, Reply

from composeapps import config
from composeapps.errors import ConfigError, SourceError
from composeapps.registry import RegistryClient, mirror_clients
from composeapps.registry_auth import parse_challenges
from composeapps.transport import Transport


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("secret\n")
    return path


def test_basic_login_is_sent_only_when_asked_for_and_then_remembered(secret: Path) -> None:
    with MemoryRegistry(wants('Basic realm="x"', BASIC)) as server:
        registry = client(server, secret)
        assert pull(registry) == BLOB
        assert pull(registry) == BLOB
        sent = [asked.headers.get("authorization") for asked in server.requests]
        assert sent == [None, BASIC, BASIC]


def test_a_wrong_or_missing_login_is_said(secret: Path) -> None:
    with MemoryRegistry(wants('Basic realm="x"', "something else")) as server:
        with pytest.raises(SourceError, match=r"answers 401.*password_file"):
            pull(client(server, secret))
        assert len(server.requests) == 2
        with pytest.raises(SourceError, match="wants a login"):
            pull(client(server))
    with (
        MemoryRegistry(wants("", "x")) as server,
        pytest.raises(SourceError, match="wants a login"),
    ):
        pull(client(server, secret))


def test_password_files_that_cannot_be_used(tmp_path: Path) -> None:
    with MemoryRegistry(wants('Basic realm="x"', BASIC)) as server:
        for name, content in {"two": b"a\nb\n", "binary": b"\xff", "big": b"x" * 99999}.items():
            path = tmp_path / name
            path.write_bytes(content)
            with pytest.raises(ConfigError, match="password_file"):
                pull(client(server, path))
        with pytest.raises(ConfigError, match="does not exist"):
            pull(client(server, tmp_path / "none"))


def test_a_fixed_token(secret: Path) -> None:
    with MemoryRegistry(wants('Bearer realm="http://x/"', "Bearer secret")) as server:
        assert pull(client(server, secret, user="")) == BLOB


class TokenServer(HttpServer):
    """Gives out a token, whatever it is asked."""

    def __init__(self, body: object, *, status: int = 200) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        super().__init__(lambda _: Reply(status, data))


def bearer(realm: str) -> Callable[[Asked], Reply | None]:
    return wants(f'Bearer realm="{realm}",service="the registry",scope="x"', "Bearer good")


@pytest.mark.parametrize("name", ["token", "access_token"])
def test_token_flow(secret: Path, name: str) -> None:
    with TokenServer({name: "good", "expires_in": 60}) as tokens:
        with MemoryRegistry(bearer(f"{tokens.url}/t?x=1")) as server:
            registry = client(server, secret)
            assert pull(registry) == BLOB
            assert pull(registry) == BLOB
        (asked,) = tokens.requests
        query = parse_qs(urlsplit(asked.target).query)
        assert query == {"x": ["1"], "service": ["the registry"], "scope": ["repository:a/b:pull"]}
        assert asked.headers["authorization"] == BASIC


def test_a_token_that_ran_out_is_asked_for_again() -> None:
    valid = ["one"]

    def guard(asked: Asked) -> Reply | None:
        if asked.headers.get("authorization") == f"Bearer {valid[0]}":
            return None
        return Reply(401, b"", {"WWW-Authenticate": f'Bearer realm="{tokens.url}"'})

    tokens = HttpServer(lambda _: Reply(200, json.dumps({"token": valid[0]}).encode()))
    with tokens, MemoryRegistry(guard) as server:
        registry = client(server)
        assert pull(registry) == BLOB
        valid[0] = "two"
        assert pull(registry) == BLOB
        assert len(tokens.requests) == 2
        assert "authorization" not in tokens.requests[0].headers


@pytest.mark.parametrize(
    "body",
    [{}, [], b"{", {"token": 1}, {"token": ""}, {"token": "a\r\nX: y"}, {"token": "a b"},
     {"token": "x" * 40_000}, b"x" * 100_000, b"[" * 50_000, {"token": {"token": "good"}}],
)  # fmt: skip
def test_useless_token_answers(body: object) -> None:
    with TokenServer(body) as tokens, MemoryRegistry(bearer(tokens.url)) as server:
        with pytest.raises(SourceError, match=tokens.netloc):
            pull(client(server))
        assert len(server.requests) == 1


def test_a_token_server_that_refuses() -> None:
    with TokenServer({}, status=403) as tokens, MemoryRegistry(bearer(tokens.url)) as server:
        registry = client(server)
        with pytest.raises(SourceError, match="answers 403"):
            pull(registry)


@pytest.mark.parametrize(
    "realm",
    [
        "http://other.example/token", "http://localhost/token", "", "nonsense", "file:///etc/passwd",
        "http://user:pw@127.0.0.1/", "http://127.0.0.1\\\\@evil/", "http://" + "x" * 5000,
        "http://127.0.0.2:1/",
    ],
)  # fmt: skip
def test_evil_realms_of_a_plain_registry(realm: str, secret: Path) -> None:
    with MemoryRegistry(bearer(realm)) as server, pytest.raises(SourceError):
        pull(client(server, secret))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


class Internet:
    """Public names that a proxy alone knows: a registry, its token server and a third party."""

    NAMES = ("registry.example.test", "auth.example.test", "thief.example.org")

    def __init__(self, authority: Authority, secret: Path) -> None:
        context = authority.server_context(authority.issue(*self.NAMES, "127.0.0.1"))
        self.realm = ""
        self.registry = HttpServer(self._registry, context=context)
        self.tokens = HttpServer(lambda _: Reply(200, b'{"token": "good"}'), context=context)
        ports = dict.fromkeys(self.NAMES, self.tokens.port)
        self.proxy = Proxy({**ports, self.NAMES[0]: self.registry.port})
        transport = Transport(2, bounds=QUICK, environment={"https_proxy": self.proxy.url})
        settings = config.RegistrySettings(
            username="maker", password_file=str(secret), ca=str(authority.path)
        )
        self.client = RegistryClient(f"https://{self.NAMES[0]}", settings, transport)

    def _registry(self, asked: Asked) -> Reply:
        if asked.headers.get("authorization") == "Bearer good":
            return Reply(200, BLOB)
        return Reply(401, b"", {"WWW-Authenticate": f'Bearer realm="{self.realm}"'})

    def close(self) -> None:
        for server in (self.registry, self.tokens, self.proxy):
            server.close()


@pytest.fixture
def internet(authority: Authority, secret: Path) -> Iterator[Internet]:
    made = Internet(authority, secret)
    yield made
    made.close()


def test_the_password_goes_to_a_token_server_of_the_same_domain(internet: Internet) -> None:
    internet.realm = "https://auth.example.test/token"
    assert pull(internet.client) == BLOB
    assert internet.tokens.requests[0].headers["authorization"] == BASIC


def test_the_password_does_not_go_to_a_third_party(internet: Internet) -> None:
    internet.realm = "https://thief.example.org/token"
    assert pull(internet.client) == BLOB
    assert "authorization" not in internet.tokens.requests[0].headers


def test_a_public_registry_cannot_send_us_to_ourselves(internet: Internet) -> None:
    for host in ("localhost", HOST, "[::1]", "169.254.169.254", "10.0.0.1", "127.1", "a.internal"):
        internet.realm = f"https://{host}:{internet.tokens.port}/token"
        with pytest.raises(SourceError, match="this device or in a private network"):
            pull(internet.client)
    internet.realm = "http://auth.example.test/token"
    with pytest.raises(SourceError, match="not asked without TLS"):
        pull(internet.client)
    assert internet.tokens.requests == []


def test_a_name_that_leads_to_ourselves_is_not_connected_to() -> None:
    from composeapps.answers import Request

    with HttpServer(lambda _: Reply()) as server:
        transport = Transport(2, bounds=QUICK, environment={})
        request = Request(f"http://localhost:{server.port}/", 10)
        assert transport.fetch(request, 200).status == 200
        refused = Request(request.url, 10, public_only=True)
        fresh = Transport(2, bounds=QUICK, environment={})
        with pytest.raises(SourceError, match="private network"):
            fresh.fetch(refused, 200)
        assert server.connections == 1


def test_a_mirror_does_not_get_the_login_of_its_registry(secret: Path) -> None:
    with MemoryRegistry(wants('Basic realm="x"', BASIC)) as mirror:
        login = {"username": "maker", "password_file": str(secret)}
        own = config.RegistrySettings(mirrors=(mirror.url,), **login)  # type: ignore[arg-type]
        transport = Transport(1, bounds=QUICK, environment={})
        (asked,) = mirror_clients("r", config.Settings(registry={"r": own}), transport)
        with pytest.raises(SourceError, match="wants a login"):
            pull(asked)
        assert all("authorization" not in a.headers for a in mirror.requests)
        entries = {"r": own, mirror.netloc: config.RegistrySettings(**login)}  # type: ignore[arg-type]
        (asked,) = mirror_clients("r", config.Settings(registry=entries), transport)
        assert pull(asked) == BLOB


def test_logins_from_several_threads(secret: Path) -> None:
    with MemoryRegistry(wants('Basic realm="x"', BASIC)) as server:
        registry = client(server, secret)
        got: list[bytes] = []
        threads = [threading.Thread(target=lambda: got.append(pull(registry))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert got == [BLOB] * 6


# Challenges


def test_challenges() -> None:
    both = parse_challenges(
        ['Basic realm="a, b=\\"c\\"", Bearer realm=x,service="y"', "Negotiate abc=="]
    )
    assert [(c.scheme, dict(c.parameters)) for c in both][:2] == [
        ("basic", {"realm": 'a, b="c"'}),
        ("bearer", {"realm": "x", "service": "y"}),
    ]


@given(st.lists(st.text(max_size=50) | st.sampled_from(['Bearer realm="', "a=b", '"', ",", "\\"])))
def test_any_challenge_is_parsed(headers: list[str]) -> None:
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower()
