"""Kills the real command line before every call that changes something durable, and asks the law.

::

    make crash                              all scenarios, every point (hours)
    make crash WHAT='update rollback'       some scenarios
    make crash WHAT='update --at 57'        one point again, as it was
    make crash WHAT='--every 40'            a sample spread over all points

What a trial does depends on its point's number only: each fifth is a power loss (engine and all
processes killed, /run gone), each fourth kills the command alone, so that programs which it has
started go on, each third is killed once more while it recovers, and each seventh finds a newer
release when the network is back.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT / "qemu")]

import crashlaw  # noqa: E402 - needs the path above
from crashdevice import CrashDevice, Point  # noqa: E402
from crashlaw import Expected  # noqa: E402
from scenarios import SCENARIOS, Scenario  # noqa: E402

POWER, ALONE, AGAIN, NEWER = 5, 4, 3, 7
#: Broken laws after which a scenario ends; the device is made anew after each.
ENOUGH = 10
#: Trials between two lines that say how far it is.
PROGRESS = 25
#: What ends a trial; anything else is a defect of these tests.
TROUBLE = (AssertionError, OSError, RuntimeError, ValueError, subprocess.SubprocessError)
#: Calls that a file without a final name gets many of.
INSIDE = ("pwrite64", "write")
NOTHING_INSTALLED = 6


@dataclass
class Tally:
    """What came of one scenario."""

    name: str
    #: How many points the verb has when nothing disturbs it, by the call's name.
    points: Counter[str] = field(default_factory=Counter)
    tried: int = 0
    killed: int = 0
    power: int = 0
    again: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        calls = ", ".join(f"{count} {call}" for call, count in self.points.most_common())
        return (
            f"{self.name}: {self.points.total()} points ({calls}); {self.killed} kills, of them "
            f"{self.power} power losses, {self.again} more while recovering; "
            f"{len(self.failures)} broken laws ({self.seconds:.0f} s)"
        )


def table(tallies: Sequence[Tally]) -> str:
    """Return what came of all scenarios."""
    heading = ("scenario", "points", "kills", "power", "again", "broken", "minutes")
    rows = [heading] + [
        (
            t.name,
            t.points.total(),
            t.killed,
            t.power,
            t.again,
            len(t.failures),
            f"{t.seconds / 60:.1f}",
        )
        for t in tallies
    ]
    return "\n".join("".join(f"{cell:<14}" for cell in map(str, row)).rstrip() for row in rows)


class Victim:
    """One device on which trial follows trial."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.device = self._fresh()

    def _fresh(self) -> CrashDevice:
        """Return a device with a current and a previous release, as most have."""
        device = CrashDevice(self.directory)
        try:
            for _ in range(2):
                device.publish()
                device.run_well("update")
        except BaseException:
            device.close()
            raise
        return device

    def replace(self) -> None:
        """Begin anew with a device that nothing has happened to."""
        self.device.close()
        self.device = self._fresh()

    def count(self, scenario: Scenario) -> list[Point]:
        """Run the verb undisturbed, ask the law, and return its points."""
        expected = scenario.prepare(self.device)
        log = self.device.log()
        run, _ = self.device.run_killed(0, *scenario.verb)
        assert run.code in scenario.codes, str(run)
        points = self.device.points()
        self.device.run_well("update")
        laws = list(crashlaw.broken(self.device, expected, log))
        assert not laws, f"undisturbed, and still: {laws}"
        return points

    def attempt(self, scenario: Scenario, number: int, tally: Tally) -> list[str]:
        """Kill one run at one point, recover, and return what of the law is broken.

        ``tally.killed`` stays as it is where the verb has fewer points.
        """
        device = self.device
        expected = scenario.prepare(device)
        log = device.log()
        _, point = device.run_killed(number, *scenario.verb, alone=number % ALONE == 0)
        tally.killed += point is not None
        log = max(log, device.log(), key=len)  # what it wrote meanwhile counts too
        if point is not None and number % POWER == 0:
            tally.power += 1
            device.power_loss()
        laws = list(crashlaw.at_once(device))
        laws += self._start(number, expected, log, tally)
        if number % NEWER == 0:
            expected = expected.superseded(device.publish())
        run = device.run("update")
        if run.code not in (0, 9):
            laws.append(f"L1: {run}")
        laws += crashlaw.broken(device, expected, log)
        return [f"{point or number}: {law}" for law in laws]

    def _start(
        self, number: int, expected: Expected, log: list[str], tally: Tally
    ) -> Iterator[str]:
        """Start without a network, as a device does by itself."""
        device = self.device
        with device.offline():
            if number % AGAIN == 0:
                # Spread over a start's points; one with nothing to mend has about twenty.
                _, again = device.run_killed(1 + number * 7 % 60, "start")
                tally.again += again is not None
            run = device.run("start")
            if run.code == 0:
                yield from crashlaw.resumed(device, expected, log)
            elif expected.before or run.code != NOTHING_INSTALLED:
                yield f"L1, offline: {run}"

    def growth(self) -> list[str]:
        """Return what the device has gathered beyond what it has to keep."""
        for _ in range(2):
            self.device.publish()
            self.device.run_well("update")
        return list(crashlaw.grown(self.device))


class Sweep:
    """Several devices that share the points of one scenario after the other."""

    def __init__(self, directory: Path, jobs: int) -> None:
        self._pool = ThreadPoolExecutor(jobs)
        directories = [directory / f"bed-{job}" for job in range(jobs)]
        self._victims = list(self._pool.map(Victim, directories))
        self._lock = threading.Lock()
        self._ended = False

    def close(self) -> None:
        """End the devices and remove their files, after the trials that are under way."""
        self._ended = True
        self._pool.shutdown()
        for victim in self._victims:
            victim.device.close()

    def run(self, name: str, choose: Callable[[Sequence[Point]], Iterable[int]]) -> Tally:
        """Try points of a scenario until there are no more.

        Args:
            choose: returns the numbers to try, given the points of an undisturbed run.
        """
        begun = time.monotonic()
        for victim in self._victims:
            if victim.device.factory_version:
                victim.replace()
        points = self._victims[0].count(SCENARIOS[name])
        tally = Tally(name, Counter(point.name for point in points))
        print(f"{name}: {len(points)} points", flush=True)
        numbers = iter(choose(points))
        found = self._pool.map(lambda victim: self._work(victim, tally, numbers), self._victims)
        for victim, growth in zip(self._victims, list(found), strict=True):
            if growth:
                self._note(tally, f"{name}, at the end: {'; '.join(growth)}")
                victim.replace()
        tally.seconds = time.monotonic() - begun
        return tally

    def _work(self, victim: Victim, tally: Tally, numbers: Iterator[int]) -> list[str]:
        """Try points on one device; return what it has gathered by the end."""
        scenario = SCENARIOS[tally.name]
        while True:
            with self._lock:
                number = next(numbers, 0)
            if number == 0 or self._ended or len(tally.failures) >= ENOUGH:
                return victim.growth()
            own = Tally(tally.name)
            try:
                laws = victim.attempt(scenario, number, own)
            except TROUBLE as error:  # the point has to be named
                laws = [f"{number}: {type(error).__name__}: {error}"]
            with self._lock:
                self._add(tally, own, number, laws)
            if laws:
                victim.replace()
            elif not own.killed:
                return victim.growth()

    def _add(self, tally: Tally, own: Tally, number: int, laws: list[str]) -> None:
        tally.tried += 1
        tally.killed += own.killed
        tally.power += own.power
        tally.again += own.again
        if laws:
            replay = f"make crash WHAT='{tally.name} --at {number}'"
            self._note(tally, "\n    ".join([f"{tally.name}, again: {replay}", *laws]))
        if tally.tried % PROGRESS == 0:
            print(f"{tally.name}: {tally.tried} tried, now at point {number}", flush=True)

    def _note(self, tally: Tally, text: str) -> None:
        print(text, flush=True)
        tally.failures.append(text)


def sample(points: Sequence[Point], count: int, begin: float) -> list[int]:
    """Return ``count`` numbers spread over the points.

    Most of all points write bytes inside of a file that has no final name yet; of those a fifth
    takes part.

    Args:
        begin: from 0 to 1, where in the first part of the points to begin.
    """
    plain = [p.number for p in points if p.name in INSIDE and p.number % 5 == 1]
    worth = sorted(plain + [p.number for p in points if p.name not in INSIDE])
    step = len(worth) / count
    return [worth[int((index + begin) * step)] for index in range(count)]


def main() -> int:
    """Run scenarios from the command line; 1 where a law is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("scenario", nargs="*", default=list(SCENARIOS), help=", ".join(SCENARIOS))
    parser.add_argument("--at", type=int, nargs="+", help="only these points")
    parser.add_argument("--from", type=int, default=1, dest="first", help="begin with this point")
    parser.add_argument("--every", type=int, default=1, help="only each EVERYth point")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="devices at once")
    options = parser.parse_args()

    def choose(_points: Sequence[Point]) -> Iterable[int]:
        return options.at or itertools.count(options.first, options.every)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # no testbed may stay behind
    tallies = []
    with TemporaryDirectory(prefix="composeapps-crash-", dir="/var/tmp") as directory:
        sweep = Sweep(Path(directory), 1 if options.at else options.jobs)
        try:
            for name in options.scenario:
                tallies.append(sweep.run(name, choose))
                print(tallies[-1], flush=True)
        finally:
            sweep.close()
    print(table(tallies))
    return int(any(tally.failures for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
