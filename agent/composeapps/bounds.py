"""How much of anything a server may take: every limit of the network seam, in one place.

The attacks are those that the TUF specification lists as "endless data" and "slow retrieval"
(section 1.5.2), and what stock HTTP clients leave open: unlimited ``Retry-After``, headers and
redirects.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from composeapps.errors import SourceError

#: Seconds; how often a blocked read looks whether it should stop.
POLL = 0.5
#: Bytes of one read from a socket or a file.
CHUNK = 256 * 1024


@dataclass(frozen=True)
class Bounds:
    """The limits of one exchange with a server, and of the tries around it."""

    #: Bytes of status line and headers of one answer.
    header_bytes: int = 64 * 1024
    #: Redirects followed for one request, all to the same scheme, host and port.
    redirects: int = 3
    #: Addresses of one host name that are tried.
    addresses: int = 6
    #: Seconds; a longer ``Retry-After`` is taken as this.
    retry_after: float = 60.0
    #: Seconds of waiting for a server after which it is judged: it has to have moved
    #: ``minimum_rate`` bytes per second. Time that our own rate cap or disk takes is not counted.
    window: float = 60.0
    minimum_rate: int = 1024
    #: Bytes per second that bound the whole time of a small fetch, see ``small_seconds``.
    small_rate: int = 8192
    #: Bytes of a token server's answer, and of an error's text that is looked at.
    token_bytes: int = 64 * 1024
    error_bytes: int = 8 * 1024
    #: Seconds; back-off n is a random time up to ``min(backoff_cap, backoff * 2**n)``.
    backoff: float = 0.5
    backoff_cap: float = 60.0
    #: Bytes; a try that brought that many does not count as failed.
    progress: int = 1024 * 1024

    def small_seconds(self, timeout: float, limit: int) -> float:
        """Return the seconds that one small fetch may take, from connecting to its last byte.

        Args:
            timeout: seconds of one connection attempt or read (``source.timeout``).
            limit: bytes it may bring.
        """
        return 3 * timeout + limit / self.small_rate


class StoppedError(SourceError):
    """The caller set the stop event; nobody is to blame."""


class Stats:
    """Counts what went over the wire: bytes as HTTP sees them, so without TLS and TCP framing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.received = 0
        self.sent = 0
        self.requests = 0
        self.connections = 0

    def count(
        self, *, received: int = 0, sent: int = 0, requests: int = 0, connections: int = 0
    ) -> None:
        """Add to the counters; safe from several threads."""
        with self._lock:
            self.received += received
            self.sent += sent
            self.requests += requests
            self.connections += connections
