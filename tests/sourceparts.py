"""What the tests of the Source share."""

from __future__ import annotations

from composeapps import config
from composeapps.bounds import Bounds
from composeapps.source import Source

QUICK = Bounds(backoff=0.01, backoff_cap=0.02, retry_after=0.05)


def make(
    registry: str = "registry.test", *, entry: dict[str, object] | None = None, **source: object
) -> Source:
    values = {"timeout": 2.0, "attempts": 2, **source}
    text = {"source": values, "registry": {registry: entry or {"insecure": True}}}
    return Source(config.parse(text, "test"), bounds=QUICK)
