"""What a registry asks for before it answers: Basic, or a Bearer token from a token server.

Sources: distribution-spec 1.1, "Authentication" of the CNCF distribution project (token
specification), RFC 9110 section 11 and RFC 6750.

Where a password or token may go is decided here:

* to the registry that the settings name it for; never to its mirrors, never along a redirect;
* to the token server ("realm") that this registry names, where that is the same host, or an
  https server whose name ends in the same two labels (``docker.io`` names ``auth.docker.io``).

A realm elsewhere is asked without credentials, and only by https. A realm that is this device
or in a private network is asked only where the registry itself is there (a hostile registry
must not make the device talk to its neighbours). Plain http is only for a registry that the
settings allow plain http for, and on its own host. The client certificate goes only to the
registry's own host.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from composeapps import urls
from composeapps.answers import Answer, Request, Tls
from composeapps.config import RegistrySettings
from composeapps.directory import read_file
from composeapps.errors import ConfigError, SettingsError, SourceError
from composeapps.transport import Transport

#: Bytes of a password file, and characters of a token.
SECRET_LIMIT = 32 * 1024
#: Characters of challenges that are looked at.
CHALLENGE_LIMIT = 8 * 1024

_PART = re.compile(r'([A-Za-z0-9_-]{1,64})(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+)))?')
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")


@dataclass(frozen=True)
class Challenge:
    """One challenge of a ``WWW-Authenticate`` header; names are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return the challenges that can be read from hostile headers."""
    found: list[tuple[str, dict[str, str]]] = []
    for match in _PART.finditer(", ".join(headers)[:CHALLENGE_LIMIT]):
        name, quoted, plain = match.groups()
        if quoted is None and plain is None:
            found.append((name.lower(), {}))
        elif found:
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1][1].setdefault(name.lower(), value)
    return [Challenge(scheme, parameters) for scheme, parameters in found]


class Authorizer:
    """Learns from a registry's 401 answers what to send with the next request."""

    def __init__(
        self, base: str, settings: RegistrySettings, tls: Tls, transport: Transport
    ) -> None:
        self._origin = urls.origin(base)
        self._settings = settings
        self._tls = tls
        self._transport = transport
        self._headers: dict[str, str] = {}
        self._lock = threading.Lock()

    def headers(self, scope: str) -> dict[str, str]:
        """Return what is known to satisfy the registry for a scope, nothing at first."""
        with self._lock:
            value = self._headers.get(scope)
        return {"Authorization": value} if value else {}

    def learn(self, answer: Answer, request: Request, scope: str) -> None:
        """Get what a 401 answer asks for.

        Raises:
            SourceError: it asks for nothing that can be given.
            SettingsError: the password file cannot be read.
        """
        for challenge in parse_challenges(answer.challenges):
            value = self._answer_to(challenge, answer, request, scope)
            if value:
                with self._lock:
                    self._headers[scope] = value
                return
        raise SourceError(
            f"{answer.url}: the registry wants a login; set username and password_file under "
            f'[registry."host"] in the settings'
        )

    def _answer_to(self, challenge: Challenge, answer: Answer, request: Request, scope: str) -> str:
        settings = self._settings
        if challenge.scheme == "basic" and settings.username:
            return self._basic()
        if challenge.scheme != "bearer":
            return ""
        if settings.password_file and not settings.username:
            return f"Bearer {_secret(settings)}"
        if "realm" in challenge.parameters:
            return f"Bearer {self._token(challenge, answer, request, scope)}"
        return ""

    def _basic(self) -> str:
        login = f"{self._settings.username}:{_secret(self._settings)}"
        return "Basic " + base64.b64encode(login.encode()).decode()

    def _token(self, challenge: Challenge, answer: Answer, request: Request, scope: str) -> str:
        """Ask the token server (token specification, "Requesting a token")."""
        realm = challenge.parameters["realm"]
        try:
            place = urls.origin(realm)
        except ConfigError as error:
            raise SourceError(f"{answer.url}: the token server: {error}") from error
        public_only = self._judge(place, answer)
        query = {"scope": scope}
        if "service" in challenge.parameters:
            query["service"] = challenge.parameters["service"]
        same = place.host == self._origin.host
        bounds = self._transport.bounds
        allowed = bounds.small_seconds(self._transport.timeout, bounds.token_bytes)
        wanted = Request(
            f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}",
            bounds.token_bytes,
            headers=self._login_for(place),
            tls=self._tls if same else Tls(ca=self._tls.ca),
            deadline=min(request.deadline, time.monotonic() + allowed),
            stop=request.stop,
            public_only=public_only,
        )
        return _read_token(self._transport.fetch(wanted, 200).body, realm)

    def _judge(self, place: urls.Origin, answer: Answer) -> bool:
        """Say whether only public addresses may be asked; raises SourceError for never."""
        own = self._origin
        if place.host == own.host and (place.scheme == "https" or own.scheme == "http"):
            return False
        if place.scheme != "https":
            raise SourceError(f"{answer.url}: the token server {place} is not asked without TLS")
        private = urls.is_local_name(own.host) or (answer.peer and not urls.is_public(answer.peer))
        if private:
            return False
        if urls.is_local_name(place.host):
            raise SourceError(
                f"{answer.url}: the token server {place} is this device or in a private network"
            )
        return True

    def _login_for(self, place: urls.Origin) -> dict[str, str]:
        if not self._settings.username or not urls.related(place.host, self._origin.host):
            return {}
        return {"Authorization": self._basic()}


def _read_token(body: bytes, realm: str) -> str:
    try:
        value = json.loads(body)
        token = value.get("token") or value.get("access_token")
    except (ValueError, RecursionError, AttributeError) as error:
        raise SourceError(f"{realm}: the token server's answer is not a JSON object") from error
    if not isinstance(token, str) or len(token) > SECRET_LIMIT or not _TOKEN.fullmatch(token):
        raise SourceError(f"{realm}: the token server's answer holds no usable token")
    return token


def _secret(settings: RegistrySettings) -> str:
    if not settings.password_file:
        return ""
    try:
        text = read_file(Path(settings.password_file), SECRET_LIMIT).decode()
    except (SourceError, UnicodeDecodeError) as error:
        raise SettingsError(f"password_file of a registry: {error}") from error
    secret = text.rstrip("\r\n")
    if not secret.isprintable():
        raise SettingsError(f"password_file {settings.password_file} holds more than one line")
    return secret
