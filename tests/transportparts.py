"""What the tests of the transport share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from servers import Wire

from composeapps.answers import Request, Response
from composeapps.bounds import Bounds
from composeapps.transport import Transport

#: Not a name, so that no name server is asked.
UNKNOWN = "x" * 64 + ".test"


QUICK = Bounds(window=1.0, minimum_rate=1000, retry_after=7.0)


def transport(timeout: float = 1.0, bounds: Bounds = QUICK, **environment: str) -> Transport:
    return Transport(timeout, bounds=bounds, environment=environment)


def get(url: str, limit: int = 100_000, timeout: float = 1.0, **more: object) -> Response:
    return transport(timeout).fetch(replace(Request(url, limit), **more), 200)  # type: ignore[arg-type]


def replying(head: str, body: bytes = b"") -> Callable[[Wire], None]:
    """Return a script that answers one request with bytes as they are."""

    def script(wire: Wire) -> None:
        wire.request()
        wire.send(head.replace("\n", "\r\n") + "\r\n")
        wire.send(body)

    return script


OK = "HTTP/1.1 200 ok\n"


def drip(*, before: bytes, pause: float = 0.1) -> Callable[[Wire], None]:
    def script(wire: Wire) -> None:
        wire.request()
        wire.send(before)
        end = time.monotonic() + 15  # so that a client without bounds fails and does not hang
        while time.monotonic() < end:
            wire.send(b"x")
            time.sleep(pause)

    return script
