"""Requests and answers of the network seam, and the one error that all library errors become.

Everything an answer holds was chosen by an untrusted server: status, headers, length, body.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import ssl
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO

import urllib3
import urllib3.exceptions

from composeapps import urls, wire
from composeapps.errors import NotFoundError, SourceError, TransientError

#: What the libraries below raise when a server, a proxy or the network misbehaves.
#: ``ValueError`` holds ``UnicodeError``; ``OSError`` holds ``ssl.SSLError`` and time-outs;
#: urllib3's own base holds ``LocationParseError``, ``InvalidHeader``, ``IncompleteRead``, ....
RAISED = (
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
    OverflowError,
)
#: Answers that mean: there is no such thing.
MISSING = frozenset({404, 410})
#: Static servers that hide what they have (S3 without list permission) answer 403 for missing.
STATIC_MISSING = MISSING | {403}
#: Answers that may be others when asked again: time-out, too early, too many, server errors.
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Tls:
    """PEM files: whom to believe (instead of the system's authorities), and who we are."""

    ca: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True)
class Request:
    """One request; ``limit`` is the bytes that its answer's body may have."""

    url: str
    limit: int
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | IO[bytes] | None = None
    tls: Tls = Tls()
    #: Time of ``time.monotonic`` at which it all has to be over.
    deadline: float = math.inf
    stop: threading.Event = field(default_factory=threading.Event)
    #: Refuse to connect to this device itself or to a private network.
    public_only: bool = False


@dataclass(frozen=True)
class Response:
    """A whole small answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    #: To be sent with the next request for the same URL; "" where the server gave none.
    etag: str = ""


class Answer:
    """An answer whose body is still to be read; close it, or use it in a ``with``."""

    def __init__(
        self, request: Request, url: str, response: urllib3.BaseHTTPResponse, budget: wire.Budget
    ) -> None:
        #: Where it came from in the end, on the origin that was asked.
        self.url = url
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        #: The ``WWW-Authenticate`` headers.
        self.challenges: Sequence[str] = response.headers.getlist("www-authenticate")
        #: The address of the server; "" where a proxy stands between.
        self.peer = budget.peer
        self._request = request
        self._response = response
        self._budget = budget
        self._seen = 0
        self._complete = request.method == "HEAD"

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def read(self, amount: int) -> bytes:
        """Return up to ``amount`` bytes of the body as they come, nothing at its end.

        Raises:
            SourceError: the server broke off, is too slow, or sent more than the limit.
        """
        data = self._read(min(amount, self._request.limit - self._seen + 1))
        self._seen += len(data)
        if self._seen > self._request.limit:
            raise SourceError(f"{self.url}: more than the {self._request.limit} bytes allowed")
        return data

    def body(self) -> bytes:
        """Return the whole body; raises as ``read`` does."""
        whole = bytearray()  # not a list: a server may send single bytes
        while part := self.read(64 * 1024):
            whole += part
        return bytes(whole)

    def length(self) -> int | None:
        """Return the ``Content-Length``, or None where there is no usable one."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def close(self) -> None:
        """Give the connection back for reuse, or close it where the body was not read."""
        with suppress(*RAISED):
            if self._complete or self._response.closed:
                self._response.release_conn()
            else:
                self._response.close()

    def check(self, *accepted: int, missing: Collection[int] = MISSING) -> None:
        """Raise the error that fits the status, with what the server said, unless accepted.

        Args:
            missing: which of them mean that there is no such thing.
        """
        status = self.status
        if status in accepted:
            return
        said = f"{self.url}: the server answers {status}{self._said()}"
        if status in missing:
            raise NotFoundError(said)
        if status in TRANSIENT:
            raise TransientError(said, retry_after=self.retry_after())
        if status in (401, 403):
            said += "; check the user name and password_file of this registry in the settings"
        raise SourceError(said)

    def retry_after(self) -> float | None:
        """Return the seconds that the server asks to wait (RFC 9110, 10.2.3), capped."""
        text = self.headers.get("retry-after", "").strip()
        seconds: float | None = None
        if text.isascii() and text.isdigit():
            seconds = float(text[:12])
        elif text:
            with suppress(ValueError, TypeError, OverflowError):
                seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        return None if seconds is None else min(max(seconds, 0.0), self._budget.bounds.retry_after)

    def _read(self, amount: int) -> bytes:
        try:
            with wire.active(self._budget):
                data = self._response.read1(amount)
        except RAISED as error:
            raise translate(error, self.url) from error
        self._complete = self._complete or not data
        return bytes(data)

    def _said(self) -> str:
        """Return what a registry's error body says (distribution-spec, error codes)."""
        text = bytearray()
        limit = 0 if self._request.method == "HEAD" else self._budget.bounds.error_bytes
        with suppress(SourceError):
            while len(text) < limit and (part := self._read(limit - len(text))):
                text += part
        try:
            error = json.loads(text)["errors"][0]
            words = f"{error.get('code', '')} {error.get('message', '')}"
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return ""
        return f" ({urls.printable(words.strip(), 200)})"


def translate(error: Exception, url: str) -> SourceError:
    """Return the SourceError for what a library raised, in one line."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = urls.printable(cause.verify_message or str(cause), 200)
            return SourceError(
                f"{url}: the server's TLS certificate is not accepted ({reason}); check the ca "
                "setting and this device's clock"
            )
    deepest = _causes(error)[-1]
    words = urls.printable(str(deepest) or type(deepest).__name__, 200)
    if isinstance(deepest, TimeoutError):
        words = "the server did not answer in time"
    if isinstance(error, ValueError) and not isinstance(error, (OSError, UnicodeError)):
        return SourceError(f"{url}: the answer makes no sense ({words})")
    return TransientError(f"{url}: {words}")


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and what it was raised for, outermost first."""
    chain = [error]
    while len(chain) < 10:
        last = chain[-1]
        inner = [item for item in last.args if isinstance(item, BaseException)]
        following = last.__cause__ or (inner[0] if inner else None)
        if following is None or following in chain:
            break
        chain.append(following)
    return chain
