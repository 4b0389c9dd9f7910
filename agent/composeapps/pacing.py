"""Trying again without harm: bounded tries, random back-off, a rate cap, parallel downloads.

Back-off is "full jitter" as in Marc Brooker, "Exponential Backoff And Jitter" (AWS Architecture
Blog, 2015): a fleet that lost its server at one moment must not return at one moment.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TypeVar

from composeapps.bounds import Bounds, StoppedError
from composeapps.errors import IntegrityError, NotFoundError, SourceError, TransientError
from composeapps.places import Place

T = TypeVar("T")


@dataclass(frozen=True)
class Pace:
    """How often something is tried, and until when."""

    #: Tries in a row that bring less than ``bounds.progress`` bytes.
    attempts: int
    bounds: Bounds
    stop: threading.Event = field(default_factory=threading.Event)
    #: Time of ``time.monotonic`` after which no other try begins.
    deadline: float = math.inf

    def delay(self, failures: int, retry_after: float | None) -> float:
        """Return the seconds to wait after the n-th failure in a row, counted from 1."""
        most = min(self.bounds.backoff_cap, self.bounds.backoff * 2.0 ** min(failures, 30))
        asked = min(retry_after or 0.0, self.bounds.retry_after)
        return max(asked, random.uniform(0, most))

    def wait(self, seconds: float) -> None:
        """Sleep; raises StoppedError as soon as the stop event is set."""
        if self.stop.wait(seconds):
            raise StoppedError("stopped")


def persist(action: Callable[[], T], pace: Pace, moved: Callable[[], int] = lambda: 0) -> T:
    """Do something until it works, fails for good, or failed too often.

    Args:
        moved: bytes brought so far over all tries; enough of them and the count starts anew.

    Raises:
        TransientError: the last failure, when no tries or no time are left.
    """
    failures, mark = 0, moved()
    while True:
        try:
            return action()
        except TransientError as error:
            if moved() - mark >= pace.bounds.progress:
                failures, mark = 0, moved()
            failures += 1
            delay = pace.delay(failures, error.retry_after)
            if failures >= pace.attempts or time.monotonic() + delay > pace.deadline:
                raise
        pace.wait(delay)


class Round:
    """Asks places one after the other; one that failed for good is not asked again."""

    def __init__(self, what: str, places: Sequence[Place]) -> None:
        self._what = what
        self._left = list(places)
        self._complaints: dict[str, SourceError | IntegrityError] = {}

    def ask(self, action: Callable[[Place], T]) -> T:
        """Return what the first place gives that gives anything.

        Raises:
            TransientError: none did, but one may when asked again.
            NotFoundError: all answered, and none has it.
            IntegrityError: what was found was wrong, and nobody else has it.
            SourceError: none did, for several reasons; the text says what each one said.
        """
        for place in list(self._left):
            try:
                return action(place)
            except StoppedError:
                raise
            except TransientError as error:
                self._complaints[place.name] = error
            except (SourceError, IntegrityError) as error:
                self._complaints[place.name] = error
                self._left.remove(place)
        raise self._verdict()

    def _verdict(self) -> SourceError | IntegrityError:
        errors = list(self._complaints.values())
        reasons = "; ".join(str(error) for error in errors) or "no source is set"
        text = f"{self._what} cannot be had: {reasons}"
        waits = [e.retry_after for e in errors if isinstance(e, SourceError) and e.retry_after]
        if any(isinstance(error, TransientError) for error in errors):
            return TransientError(text, retry_after=max(waits, default=None))
        missing = [isinstance(error, NotFoundError) for error in errors]
        if errors and all(missing):
            return NotFoundError(text)
        wrong = [isinstance(error, IntegrityError) for error in errors]
        if any(wrong) and all(a or b for a, b in zip(missing, wrong, strict=True)):
            return IntegrityError(text)
        return SourceError(text)


class RateLimiter:
    """A token bucket that all downloads share; it holds what one second brings."""

    def __init__(self, rate: int) -> None:
        """Set the cap in bytes per second; 0 means none."""
        self.rate = rate
        self._tokens = float(rate)
        self._last = time.monotonic()
        self._lock = threading.Lock()

    def take(self, count: int, pace: Pace) -> None:
        """Wait until ``count`` bytes more fit under the cap; raises StoppedError."""
        if not self.rate:
            return
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self.rate, self._tokens + (now - self._last) * self.rate) - count
            self._last = now
            seconds = -self._tokens / self.rate
        if seconds > 0:
            pace.wait(seconds)


def download_all(
    jobs: Sequence[Callable[[threading.Event], T]],
    parallel: int,
    stop: threading.Event | None = None,
) -> list[T]:
    """Run jobs in a few threads and return their results in order.

    Each job is given an event and ends soon after it is set, with StoppedError. The first job
    that fails sets it for all; its error is raised when all threads have ended.

    Raises:
        ComposeAppsError: what the first failing job raised.
    """
    stop = stop or threading.Event()
    with ThreadPoolExecutor(max(1, parallel), thread_name_prefix="download") as pool:
        futures: list[Future[T]] = [pool.submit(job, stop) for job in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise
    return [future.result() for future in futures]
