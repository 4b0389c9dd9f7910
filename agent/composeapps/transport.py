"""HTTP with every bound in force: one request in, one answer or one clear error out.

Untrusted servers and proxies are on the other side. TLS is always verified; redirects stay on
their origin; nothing is decompressed; no cookies; credentials go where the caller puts them and
nowhere else; whatever ``urllib3``, ``http.client``, ``ssl`` or ``socket`` raise becomes a
SourceError.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Mapping
from typing import Any

import urllib3
import urllib3.exceptions

from composeapps import __version__, urls, wire
from composeapps.answers import MISSING, RAISED, Answer, Request, Response, Tls, translate
from composeapps.bounds import Bounds, Stats
from composeapps.errors import IntegrityError, SettingsError, SourceError
from composeapps.places import Wanted

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")

# A device without a clock connects in 1970; what TLS says then is clear enough.
urllib3.disable_warnings(urllib3.exceptions.SystemTimeWarning)


class Transport:
    """Sends requests; one for a whole run, safe from several threads."""

    def __init__(
        self,
        timeout: float,
        *,
        bounds: Bounds | None = None,
        environment: Mapping[str, str] | None = None,
        connections: int = 4,
    ) -> None:
        """Set it up; nothing is connected yet.

        Args:
            timeout: seconds for one connection attempt and for each read.
            environment: where the proxy variables are; the process's own by default.
            connections: idle ones kept for each origin.
        """
        self.timeout = max(timeout, 0.1)
        self.bounds = bounds or Bounds()
        self.stats = Stats()
        self._environment = dict(os.environ if environment is None else environment)
        self._connections = connections
        self._pools: dict[tuple[Tls, str], urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def send(self, request: Request) -> Answer:
        """Send a request and return its answer, redirects followed where they are allowed.

        Raises:
            SourceError: there is no answer, or none that is acceptable; a status of 400 and
                more is an answer (see ``Answer.check``).
            ConfigError: URL, TLS files or proxy of the settings cannot be used.
        """
        url = request.url
        for _ in range(self.bounds.redirects + 1):
            answer = self._send_once(request, url)
            if answer.status not in REDIRECTS:
                self._judge(answer)
                return answer
            answer.close()
            if request.method not in ("GET", "HEAD"):
                raise SourceError(f"{url}: a redirect of {request.method} is not followed")
            url = urls.redirect(url, answer.headers.get("location", ""))
        raise SourceError(f"{request.url}: more than {self.bounds.redirects} redirects")

    def fetch(
        self, request: Request, *accepted: int, missing: Collection[int] = MISSING
    ) -> Response:
        """Send a request and read its whole answer, which has to have an accepted status.

        Raises:
            SourceError: as ``send``, ``Answer.check`` and ``Answer.read``.
        """
        with self.send(request) as answer:
            answer.check(*accepted, missing=missing)
            return Response(answer.status, answer.headers, answer.body())

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            for pool in self._pools.values():
                pool.clear()
            self._pools.clear()

    def _send_once(self, request: Request, url: str) -> Answer:
        urls.origin(url)
        pool = self._pool(request.tls, urls.proxy_for(url, self._environment))
        budget = wire.Budget(
            url,
            self.bounds,
            self.timeout,
            self.stats,
            request.stop,
            deadline=request.deadline,
            public_only=request.public_only,
        )
        headers = {
            "User-Agent": f"composeapps/{__version__}",
            "Accept-Encoding": "identity",
            **request.headers,
        }
        try:
            with wire.active(budget):
                response = pool.urlopen(
                    request.method,
                    url,
                    body=request.body,
                    headers=headers,
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    decode_content=False,
                    timeout=self.timeout,
                )
        except RAISED as error:
            raise translate(error, url) from error
        self.stats.count(requests=1)
        # A chunked body has framing of its own; a sane server's is far below an eighth.
        budget.allow(request.limit + request.limit // 8 + self.bounds.header_bytes)
        return Answer(request, url, response, budget)

    def _judge(self, answer: Answer) -> None:
        encoding = answer.headers.get("content-encoding", "identity").strip().lower()
        if not 200 <= answer.status < 600:
            answer.close()
            raise SourceError(f"{answer.url}: status {answer.status} makes no sense")
        if answer.status < 300 and encoding not in ("", "identity"):
            answer.close()
            raise SourceError(
                f"{answer.url}: the content is encoded ({urls.printable(encoding, 40)}) although "
                "that was not asked for; let the server send it as it is"
            )

    def _pool(self, tls: Tls, proxy: str) -> urllib3.PoolManager:
        with self._lock:
            key = (tls, proxy)
            if key not in self._pools:
                self._pools[key] = self._new_pool(tls, proxy)
            return self._pools[key]

    def _new_pool(self, tls: Tls, proxy: str) -> urllib3.PoolManager:
        try:
            context = wire.tls_context(tls.ca, tls.certificate, tls.key)
        except (OSError, ValueError) as error:
            names = ", ".join(name for name in (tls.ca, tls.certificate, tls.key) if name)
            raise SettingsError(f"TLS files of the settings ({names}): {error}") from error
        options: dict[str, Any] = {"maxsize": self._connections, "ssl_context": context}
        pool: urllib3.PoolManager
        if proxy:
            address, login = urls.proxy_login(proxy)
            headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
            own = wire.tls_context("", "", "")
            pool = urllib3.ProxyManager(
                address, proxy_headers=headers, proxy_ssl_context=own, **options
            )
        else:
            pool = urllib3.PoolManager(**options)
        pool.pool_classes_by_scheme = wire.POOLS
        return pool


class BodyStream:
    """The body of an answer as content; what it holds is for the reader to judge."""

    def __init__(self, answer: Answer, wanted: Wanted, missing: Collection[int]) -> None:
        """Judge status, range and length against what was wanted.

        Raises:
            SourceError: the status is an error, or the range is not the one asked for.
            IntegrityError: the length alone says that it is other content.
        """
        answer.check(200, 206, missing=missing)
        self.offset = _range_start(answer, wanted) if answer.status == 206 else 0
        self._answer = answer
        length, expected = answer.length(), wanted.limit - self.offset
        if length is not None and (length > expected or (wanted.exact and length != expected)):
            raise IntegrityError(f"{answer.url}: {length} bytes instead of {expected}")

    def read(self, amount: int) -> bytes:
        """Return up to ``amount`` bytes as they come, nothing at the end."""
        return self._answer.read(amount)

    def close(self) -> None:
        """Give the connection back."""
        self._answer.close()


def open_content(answer: Answer, wanted: Wanted, missing: Collection[int] = MISSING) -> BodyStream:
    """Return the stream of an answer, or close it and raise as ``BodyStream`` does."""
    try:
        return BodyStream(answer, wanted, missing)
    except (SourceError, IntegrityError):
        answer.close()
        raise


def range_header(wanted: Wanted) -> dict[str, str]:
    """Return the header that asks for what is still missing (RFC 9110, 14.2)."""
    return {"Range": f"bytes={wanted.offset}-{wanted.limit - 1}"} if wanted.offset else {}


def _range_start(answer: Answer, wanted: Wanted) -> int:
    match = _RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    if wanted.offset and match:
        start, end = int(match[1]), int(match[2])
        total = match[3] in ("*", str(wanted.limit))
        if start == wanted.offset and end == wanted.limit - 1 and total:
            return start
    raise SourceError(f"{answer.url}: the server sends another range than it was asked for")
