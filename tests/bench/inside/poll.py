"""Runs in a testbed's network: asks a web service over and over, then says when it was away.

    python3 poll.py URL OUTPUT

SIGTERM ends it; then the looks are written as JSON: begin, end (seconds), and whether the answer
was 200. Every look is a new connection, as a new visitor's.
"""

import json
import signal
import sys
import time
import urllib.error
import urllib.request
from types import FrameType

#: Seconds between the beginnings of two looks, and until one counts as failed.
PERIOD, PATIENCE = 0.02, 1.0
Look = tuple[float, float, bool]


def away(looks: list[Look]) -> list[float]:
    """Return for how long the service was away, each time: from the end of the last good answer
    to the end of the next one. Looks before the first good one do not count."""
    found = []
    last = 0.0
    failed = False
    for _, end, good in looks:
        if not good:
            failed = True
            continue
        if failed and last:
            found.append(end - last)
        last, failed = end, False
    return found


def look(url: str) -> Look:
    """Ask once."""
    begin = time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            good = answer.status == 200
    except (OSError, urllib.error.URLError, ValueError):
        good = False
    return begin, time.monotonic(), good


def main() -> None:
    """Look until told to end."""
    url, output = sys.argv[1:]
    looks: list[Look] = []
    ended = False

    def end(_signal: int, _frame: FrameType | None) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    while not ended:
        looks.append(look(url))
        time.sleep(max(0.0, looks[-1][0] + PERIOD - time.monotonic()))
    with open(output, "w") as file:
        json.dump(looks, file)


if __name__ == "__main__":
    main()
