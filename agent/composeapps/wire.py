"""Sockets that keep to a budget: the only place that opens connections.

``urllib3`` and ``http.client`` bound one read of a socket, never a whole answer: a server that
sends a byte now and then, header lines or ``100 Continue`` answers without end holds them for
ever. So the sockets below ask the budget of the exchange under way before each read, whatever
library code is doing the reading. TLS is Python's own, through ``SSLContext.sslsocket_class``.
"""

from __future__ import annotations

import io
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from composeapps.bounds import POLL, Bounds, Stats, StoppedError
from composeapps.errors import SourceError, TransientError
from composeapps.urls import is_public


class Budget:
    """What one exchange may still use of time and bytes, and what it has used."""

    def __init__(
        self,
        what: str,
        bounds: Bounds,
        timeout: float,
        stats: Stats,
        stop: threading.Event,
        *,
        deadline: float = math.inf,
        public_only: bool = False,
    ) -> None:
        """Start a budget that has room for the headers of an answer.

        Args:
            what: the URL, for messages.
            timeout: seconds for one connection attempt and for each read.
            deadline: time of ``time.monotonic`` at which the exchange ends.
            public_only: connect only to addresses of the public internet.
        """
        self.what = what
        self.bounds = bounds
        self.timeout = timeout
        self.stats = stats
        self.deadline = deadline
        self.public_only = public_only
        #: Address of the server that answered; "" where a proxy stands between.
        self.peer = ""
        self._stop = stop
        # Beginnings of the body arrive with the headers, as much as http.client's buffer takes:
        # 8 KiB before Python 3.14, 128 KiB since.
        self._left = bounds.header_bytes + io.DEFAULT_BUFFER_SIZE
        self._waited = 0.0
        self._moved = 0

    def allow(self, count: int) -> None:
        """Set the bytes that may still come."""
        self._left = count

    def seconds(self) -> float:
        """Return how long a socket may wait now, more than 0; raises when nothing is left."""
        self._check(0.0)
        return max(0.05, min(self.timeout, self.deadline - time.monotonic()))

    def receive(self, sock: socket.socket, read: Callable[[], Any]) -> Any:
        """Wait for bytes with all limits in force; ``read`` returns bytes or their number.

        Raises:
            TransientError: too slow, or the time is over.
            SourceError: more bytes than are allowed.
            StoppedError: the caller wants to stop.
        """
        begun = time.monotonic()
        while True:
            self._check(time.monotonic() - begun)
            if sock.gettimeout() != POLL:
                sock.settimeout(POLL)
            try:
                data = read()
            except TimeoutError:
                continue
            break
        count = data if isinstance(data, int) else len(data)
        self.stats.count(received=count)
        self._progress(time.monotonic() - begun, count)
        self._left -= count
        if self._left < 0:
            raise SourceError(f"{self.what}: the answer or its headers are larger than allowed")
        return data

    def sent(self, seconds: float, count: int) -> None:
        """Account for bytes that went out."""
        self.stats.count(sent=count)
        self._progress(seconds, count)

    def _check(self, waiting: float) -> None:
        if self._stop.is_set():
            raise StoppedError(f"{self.what}: stopped")
        if time.monotonic() > self.deadline:
            raise TransientError(f"{self.what}: the server took longer than the whole look may")
        if waiting > self.timeout:
            raise TransientError(f"{self.what}: the server sent nothing for {self.timeout:g} s")
        self._judge(self._waited + waiting)

    def _progress(self, seconds: float, count: int) -> None:
        self._waited += seconds
        self._moved += count
        self._judge(self._waited)

    def _judge(self, waited: float) -> None:
        bounds = self.bounds
        if waited < bounds.window:
            return
        if self._moved < waited * bounds.minimum_rate:
            raise TransientError(
                f"{self.what}: the server is slower than {bounds.minimum_rate} bytes per second"
            )
        self._waited, self._moved = 0.0, 0


_ACTIVE: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def active(budget: Budget) -> Iterator[None]:
    """Make all sockets that this thread uses meanwhile keep to a budget."""
    token = _ACTIVE.set(budget)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


class BoundedSocket(socket.socket):
    """A TCP socket that keeps to the active budget."""

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        budget = _ACTIVE.get()
        if budget is None:
            return super().recv_into(buffer, nbytes, flags)
        read = super().recv_into
        return int(budget.receive(self, lambda: read(buffer, nbytes, flags)))

    def sendall(self, data: Any, flags: int = 0) -> None:
        budget = _ACTIVE.get()
        if budget is None:
            super().sendall(data, flags)
            return
        self.settimeout(budget.seconds())
        begun = time.monotonic()
        super().sendall(data, flags)
        budget.sent(time.monotonic() - begun, len(data))


class BoundedTls(ssl.SSLSocket):
    """A TLS socket that keeps to the active budget."""

    def do_handshake(self, block: bool = False) -> None:
        budget = _ACTIVE.get()
        if budget is not None:  # a deadline for the handshake as a whole, see _ssl.c
            self.settimeout(budget.seconds())
        super().do_handshake(block)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002
        budget = _ACTIVE.get()
        if budget is None:
            return super().read(len, buffer)
        read = super().read
        return budget.receive(self, lambda: read(len, buffer))

    def send(self, data: Any, flags: int = 0) -> int:
        budget = _ACTIVE.get()
        if budget is None:
            return super().send(data, flags)
        self.settimeout(budget.seconds())
        begun = time.monotonic()
        count = super().send(data, flags)
        budget.sent(time.monotonic() - begun, count)
        return count


def tls_context(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    """Return a context that verifies chain and host name, TLS 1.2 or newer.

    Args:
        ca: PEM file that *replaces* the system's certificate authorities; "" for those.
        certificate: PEM file of a client certificate, with ``key`` its key; "" for none.

    Raises:
        OSError: a file cannot be read, or holds no certificate or key (``ssl.SSLError``).
    """
    context = ssl.create_default_context(cafile=ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = BoundedTls
    if certificate:
        context.load_cert_chain(certificate, key or None, password=_no_password)
    return context


def _no_password() -> str:
    raise ssl.SSLError("the key is encrypted; a device has nobody to ask for its password")


def connect(host: str, port: int, budget: Budget, *, check: bool) -> BoundedSocket:
    """Connect to the first address of a host that answers.

    The names service itself is not bounded here; the C library does that (resolv.conf(5)).

    Args:
        check: apply ``budget.public_only``; not for the way to a proxy.

    Raises:
        TransientError: the name is not known, or no address answers.
        SourceError: all its addresses are ones that may not be used.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise TransientError(f"{budget.what}: no address for {host} ({_reason(error)})") from error
    if check and budget.public_only:
        found = [entry for entry in found if is_public(str(entry[4][0]))]
        if not found:
            raise SourceError(f"{budget.what}: {host} is this device or in a private network")
    reason = "no address"
    for family, kind, protocol, _, address in found[: budget.bounds.addresses]:
        sock = BoundedSocket(family, kind, protocol)
        try:
            sock.settimeout(budget.seconds())
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(address)
        except OSError as error:
            sock.close()
            reason = _reason(error)
        except SourceError:
            sock.close()
            raise
        else:
            budget.stats.count(connections=1)
            return sock
    raise TransientError(f"{budget.what}: cannot connect to {host}:{port} ({reason})")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(error.args[-1]) if error.args else type(error).__name__


class _Bounded(HTTPConnection):
    """What both kinds of connection share; ``_new_conn`` is urllib3's seam for own sockets."""

    _peer = ""

    def _new_conn(self) -> socket.socket:
        budget = _ACTIVE.get()
        if budget is None:
            raise RuntimeError("a connection is opened outside of Transport.send")
        sock = connect(self._dns_host, self.port, budget, check=self.proxy is None)
        self._peer = "" if self.proxy is not None else str(sock.getpeername()[0])
        return sock

    def getresponse(self) -> Any:
        budget = _ACTIVE.get()
        if budget is not None:
            budget.peer = self._peer
        return super().getresponse()


class BoundedHTTPConnection(_Bounded):
    """An http connection that keeps to the active budget."""


class BoundedHTTPSConnection(_Bounded, HTTPSConnection):
    """An https connection that keeps to the active budget."""


class BoundedHTTPPool(HTTPConnectionPool):
    """Connections to one http origin."""

    ConnectionCls = BoundedHTTPConnection


class BoundedHTTPSPool(HTTPSConnectionPool):
    """Connections to one https origin."""

    ConnectionCls = BoundedHTTPSConnection


#: For ``PoolManager.pool_classes_by_scheme``.
POOLS = {"http": BoundedHTTPPool, "https": BoundedHTTPSPool}
