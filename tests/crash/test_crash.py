"""The law after a crash at a sample of points; ``make crash`` tries every one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import crash
import pytest
import scenarios
from crash import Sweep
from crashdevice import Point

JOBS = 2
#: Trials of each scenario: a few seconds each, five minutes for all of them.
TRIALS = {
    "update": 12,
    "rollback": 10,
    "reset-app": 6,
    "reset-engine": 8,
    "prune": 4,
    "install": 8,
    "first-start": 6,
}
#: Points that each has at least; a hook that misses some processes or calls counts far fewer.
POINTS = {
    "update": 400,
    "rollback": 400,
    "reset-app": 100,
    "reset-engine": 100,
    "prune": 30,
    "install": 300,
    "first-start": 200,
}
#: Calls of an update: the agent's own, SQLite's and those of mkfs.erofs.
CALLS = {"fsync", "fdatasync", "rename", "unlink", "symlink", "mount", "pwrite64", "request"}


@pytest.fixture(scope="module")
def sweep() -> Iterator[Sweep]:
    """Return devices that all scenarios share."""
    with TemporaryDirectory(prefix="composeapps-crash-", dir="/var/tmp") as directory:
        devices = Sweep(Path(directory), JOBS)
        yield devices
        devices.close()


def test_each_scenario_is_sampled() -> None:
    assert TRIALS.keys() == POINTS.keys() == scenarios.SCENARIOS.keys()


def test_a_sample_is_spread_and_begins_anywhere() -> None:
    points = [Point(n, "pwrite64" if n % 2 else "fsync", "") for n in range(1, 501)]
    for begin in (0.0, 0.5, 0.999):
        numbers = crash.sample(points, 10, begin)
        assert len(set(numbers)) == 10
        assert all(n % 2 == 0 or n % 5 == 1 for n in numbers)
        assert all(40 < b - a < 60 for a, b in itertools.pairwise(numbers))
    assert crash.sample(points, 10, 0.0) != crash.sample(points, 10, 0.5)


@pytest.mark.parametrize("name", TRIALS)
def test_law_after_a_crash(
    name: str,
    sweep: Sweep,
    rng: random.Random,
    record_property: Callable[[str, object], None],
) -> None:
    begin = rng.random()
    tally = sweep.run(name, lambda points: crash.sample(points, TRIALS[name], begin))
    record_property("told", str(tally))
    assert not tally.failures, "\n".join(tally.failures)
    assert tally.points.total() >= POINTS[name]
    assert name != "update" or tally.points.keys() >= CALLS
    # A run that is shorter than the one that was counted may miss the last points, no more.
    assert tally.killed >= TRIALS[name] // 2
