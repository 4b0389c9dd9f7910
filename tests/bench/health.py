"""When services became healthy, by the engine's own events: the same gate for every side."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable

from testbed import Testbed

OUTPUT = "events.jsonl"
#: Seconds until everything has to be healthy; the projects' own limit is 60.
LIMIT = 120.0
#: ``project/service``.
ENDS = frozenset({"telemetry/prepare"})
ALL = ENDS | {
    "web/store",
    "web/web",
    "telemetry/broker",
    "telemetry/recorder",
    "telemetry/publisher",
}
#: Whose images differ between versions 1 and 2.
CHANGED = ALL - {"web/store", "telemetry/broker"}


def healthy_at(lines: Iterable[bytes], wanted: Collection[str], since: float) -> float | None:
    """Return when the last of the wanted services became healthy for the first time.

    Services in ENDS count when they have ended with 0.

    Args:
        lines: of the engine's event stream.
        since: seconds since 1970; what was before does not count.

    Returns:
        seconds since 1970, or None while one is missing.
    """
    found: dict[str, float] = {}
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # the answer's own header, or a line that is not complete yet
            continue
        attributes = event["Actor"]["Attributes"]
        project = attributes.get("com.docker.compose.project", "")
        service = f"{project}/{attributes.get('com.docker.compose.service', '')}"
        when = event["timeNano"] / 1e9
        if when >= since and service in wanted and _is_good(service, event["Action"], attributes):
            found.setdefault(service, when)
    return max(found.values(), default=since) if set(found) >= set(wanted) else None


def _is_good(service: str, action: str, attributes: dict[str, str]) -> bool:
    if service in ENDS:
        return action == "die" and attributes.get("exitCode") == "0"
    return action == "health_status: healthy"


class Watch:
    """Follows the events of a testbed's engine from now on; a context manager."""

    def __init__(self, bed: Testbed) -> None:
        self._bed = bed
        self._path = bed.work / OUTPUT

    def __enter__(self) -> Watch:
        self._path.unlink(missing_ok=True)
        output = f"/run/work/{OUTPUT}"
        self._process = self._bed.start_in("python3", "/run/work/inside/events.py", output)
        end = time.monotonic() + 30
        while not self._path.exists() or not self._path.stat().st_size:
            if time.monotonic() > end:
                raise TimeoutError("the engine's events do not come")
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def wait(self, wanted: Collection[str], since: float) -> float:
        """Wait until all wanted services were healthy; return the seconds from ``since``.

        Raises:
            TimeoutError: they are not in time.
        """
        end = time.monotonic() + LIMIT
        while True:
            when = healthy_at(self._path.read_bytes().splitlines(), wanted, since)
            if when is not None:
                return when - since
            if time.monotonic() > end:
                raise TimeoutError(f"not healthy within {LIMIT:g} s: {sorted(wanted)}")
            time.sleep(0.05)
