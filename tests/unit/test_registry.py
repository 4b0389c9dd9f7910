"""The registry protocol against small servers: logins, token servers, uploads, hostile answers."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from certificates import Authority
from hypothesis import given
from hypothesis import strategies as st
from servers import HOST, Asked, HttpServer, Proxy, Reply, ranged

from composeapps import config, oci
from composeapps.bounds import Bounds
from composeapps.errors import ConfigError, IntegrityError, NotFoundError, SourceError
from composeapps.places import Wanted
from composeapps.registry import ACCEPT, RegistryClient, mirror_clients, registry_client
from composeapps.registry_auth import parse_challenges
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


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("secret\n")
    return path


REFERENCE = oci.Reference("127.0.0.1:1", "a/b", "latest")


def pull(registry: RegistryClient, digest: str = DIGEST, size: int = len(BLOB)) -> bytes:
    stream = registry.open(Wanted(REFERENCE, digest, "blob", size, exact=True))
    data = b""
    while part := stream.read(65536):
        data += part
    stream.close()
    return data


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


# Logins


def wants(challenge: str, value: str) -> Callable[[Asked], Reply | None]:
    """Return a guard that demands an Authorization header."""

    def guard(asked: Asked) -> Reply | None:
        if asked.headers.get("authorization") == value:
            return None
        return Reply(401, b"", {"WWW-Authenticate": challenge})

    return guard


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
