"""What the tests of downloads share."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

from servers import Asked, RawServer, Reply, ranged

from composeapps import oci
from composeapps.answers import Tls
from composeapps.bounds import Bounds
from composeapps.download import Watch, download_blob
from composeapps.layout import WebLayout
from composeapps.pacing import Pace, RateLimiter
from composeapps.places import Place
from composeapps.transport import Transport

REFERENCE = oci.Reference("registry.test", "a/b")


BLOB = random.Random(1).randbytes(3_000_000)


DESCRIPTOR = oci.Descriptor("application/octet-stream", oci.digest_of(BLOB), len(BLOB))


HEX = oci.hex_of(DESCRIPTOR.digest)


QUICK = Bounds(backoff=0.01, backoff_cap=0.02, retry_after=0.05, window=5.0)


def layout(server: RawServer, bounds: Bounds = QUICK) -> WebLayout:
    return WebLayout(server.url, Tls(), Transport(2, bounds=bounds, environment={}))


def download(
    ingest: Path,
    *places: Place,
    attempts: int = 3,
    rate: int = 0,
    watch: Watch | None = None,
    bounds: Bounds = QUICK,
    stop: threading.Event | None = None,
    descriptor: oci.Descriptor = DESCRIPTOR,
    transient: bool = False,
) -> Path:
    return download_blob(
        places,
        REFERENCE,
        descriptor,
        ingest,
        pace=Pace(attempts, bounds, stop or threading.Event()),
        limiter=RateLimiter(rate),
        watch=watch or Watch(),
        transient=transient,
    )


def check(ingest: Path, path: Path, blob: bytes = BLOB) -> None:
    """The finished file is right, and nothing else is there."""
    assert path.read_bytes() == blob
    assert os.listdir(ingest) == [path.name]


def good(asked: Asked) -> Reply:
    return ranged(asked, BLOB)
