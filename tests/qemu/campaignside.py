"""One side of a campaign: a prepared device, an update that nobody disturbs, trials on copies.

A trial is told by its number and the campaign's seed alone: what is published, when power goes as
a share of the time that this side's update takes uncut, how often it goes again while the device
recovers, which unflushed writes are lost. So each side has its power cut at the same moments. Where
the update has states, the moment is counted from the last of them before it: a machine that others
use as well takes longer for each, not fewer of them.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import vmlaw
import vmworld

from channel import MachineError
from disk import Disk
from hardware import Options
from vm import Machine

#: Seconds that an update may take.
UPDATE_TIMEOUT = 900.0
#: A little beyond the end: an update that has just been committed may be lost too.
BEYOND = 1.15
#: Seconds after power-on within which it goes again.
AGAIN_WITHIN = 40.0
_STATE = re.compile(r"\[ *([0-9.]+)\] release \d+ is ([a-z-]+)")


@dataclass(frozen=True)
class Plan:
    """What is done in a trial, the same for every side."""

    #: ``good`` or ``bad``: the release that the device is offered.
    release: str
    #: When the power goes, as a share of the time that an uncut update takes.
    share: float
    #: Seconds after each power-on that follows at which it goes again.
    again: tuple[float, ...]

    @classmethod
    def of(cls, seed: str) -> Plan:
        """Draw a plan."""
        rng = random.Random(seed)
        release = rng.choices(("good", "bad"), (4, 1))[0]
        share = rng.random() * BEYOND
        more = rng.choices((0, 1, 4), (8, 2, 1))[0]
        return cls(release, share, tuple(rng.random() * AGAIN_WITHIN for _ in range(more)))


@dataclass
class Trial:
    """What was done and what came of it; one line of the records."""

    number: int
    seed: str
    release: str
    #: Seconds after the look for a release at which the power went, on the time line of an update
    #: that nobody disturbed, and the state then.
    cut_after: float = 0.0
    state: str = ""
    #: How often the power went in all.
    cuts: int = 0
    kept: int = 0
    lost: int = 0
    #: Seconds from the last power-on to healthy, without a network; 0 where it never was.
    healthy_after: float = 0.0
    broken: list[str] = field(default_factory=list)


def moment(timeline: Sequence[tuple[float, str]], seconds: float) -> tuple[list[str], float]:
    """Return by which state a moment of the time line is found, and the seconds from there on.

    Returns:
        the state that the update is in then and all later ones, any of which will do (one may be
        over before it is seen; a bad release has others); none where no state has begun.
    """
    begun = [number for number, (at, _) in enumerate(timeline[:-1]) if at <= seconds]
    if not begun:
        return [], seconds
    last = begun[-1]
    states = [state for _, state in timeline[last:-1]]
    return [*states, *vmlaw.ENDED, "rolling-back"], seconds - timeline[last][0]


class Server(Protocol):
    """What a maker serves releases by."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens on this machine."""

    def close(self) -> None:
        """Stop."""


class Side:
    """A prepared device and trials on copies of it; subclasses say what an update is."""

    #: Name in file names, title in the report, what the replaying command has besides.
    name, title, options = "", "", ""

    def __init__(self, place: Path, within: float) -> None:
        self.within = within
        self.records = place / f"{self.name}.jsonl"
        self.scratch = place / f"scratch-{self.name}"
        self._timeline = place / f"{self.name}-timeline.json"

    # What a side has of its own.

    def make(self) -> Disk:
        """Publish all releases and write the disk of a device."""
        raise NotImplementedError

    def serve(self, release: str) -> Server:
        """Serve the release that a device has (``old``), or ``good`` or ``bad``."""
        raise NotImplementedError

    def begin(self, machine: Machine) -> None:
        """Have a device that is healthy look for the release."""
        raise NotImplementedError

    def ended(self, machine: Machine, release: str) -> bool:
        """Wait until the update has ended; say whether it has ended well."""
        raise NotImplementedError

    def judge(self, machine: Machine) -> vmlaw.Verdict:
        """Ask the law while there is no network."""
        raise NotImplementedError

    def finish(self, machine: Machine, trial: Trial, server: Server) -> None:
        """The network is back: have the update finish, and ask of that what is to be asked."""
        raise NotImplementedError

    # What all have.

    @property
    def timeline(self) -> list[tuple[float, str]]:
        """Seconds and states of an uncut update, as they were once; empty before that."""
        found = json.loads(self._timeline.read_text()) if self._timeline.exists() else []
        return [(float(at), str(state)) for at, state in found]

    def prepare(self) -> None:
        """Make releases, disk and snapshot anew; see once how long an update takes uncut."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        disk = self.make()
        server = self.serve("old")
        machine = self._machine(disk, server)
        machine.start()
        verdict = self.judge(machine)
        if verdict.broken:
            journal = machine.run("journalctl", "-b", "-n", "60", "--no-pager").out
            raise SystemExit(f"the device is not well before any cut: {verdict}\n{journal}")
        machine.save(self.scratch / "snapshot")
        server.close()
        if not self.timeline:
            self._timeline.write_text(json.dumps(self._undisturbed()))

    def _machine(self, disk: Disk, server: Server) -> Machine:
        ask = {"composeapps-test/ask": vmlaw.ASK_FILE}
        machine = Machine(self.scratch / "machine", disk, Options(run_files=ask))
        machine.reach(vmworld.PORT, server.address)
        return machine

    def _resume(self, server: Server) -> Machine:
        disk = Disk(self.scratch / "base.raw").copy(self.scratch / "trial.raw")
        machine = self._machine(disk, server)
        (machine.directory / "console.log").unlink(missing_ok=True)
        machine.start(self.scratch / "snapshot")
        machine.run("true")
        self.begin(machine)
        return machine

    def _undisturbed(self) -> list[tuple[float, str]]:
        server = self.serve("good")
        machine = self._resume(server)
        begun = machine.seconds
        if not self.ended(machine, "good"):
            raise SystemExit(f"an uncut update does not end well: {machine.console(20)}")
        end = machine.seconds - begun
        time.sleep(1)
        found = [(max(at - begun, 0.0), state) for at, state in self._states(machine)]
        machine.close()
        server.close()
        return [*found, (end, "ended")]

    def _states(self, machine: Machine) -> list[tuple[float, str]]:
        text = (machine.directory / "console.log").read_text("utf-8", "replace")
        return [(float(at), state) for at, state in _STATE.findall(text)]

    def trial(self, number: int, seed: str) -> Trial:
        """Do one trial, whatever comes of it."""
        seed = f"{seed}:{number}"
        plan = Plan.of(seed)
        trial = Trial(number, seed, plan.release)
        trial.cut_after = plan.share * self.timeline[-1][0]
        server = self.serve(plan.release)
        machine = self._resume(server)
        try:
            self._wait_for(machine, trial.cut_after)
            self._cut(machine, trial, plan)
            self._recover(machine, trial, server)
        except MachineError as error:
            trial.broken.append(f"L1: {error}")
        finally:
            if trial.broken:
                self._keep_journal(machine, number)
            machine.close()
            server.close()
        return trial

    def _wait_for(self, machine: Machine, seconds: float) -> None:
        """Wait for a moment of the time line."""
        states, rest = moment(self.timeline, seconds)
        deadline = time.monotonic() + UPDATE_TIMEOUT
        while states and not any(state in states for _, state in self._states(machine)):
            if time.monotonic() > deadline:
                raise MachineError(f"not {states[0]} after {UPDATE_TIMEOUT:g} s")
            time.sleep(0.05)
        time.sleep(rest)

    def _keep_journal(self, machine: Machine, number: int) -> None:
        """Keep what the device said in its last boot of a trial that broke a law."""
        try:
            said = machine.run("journalctl", "-b", "--no-pager", timeout=120).out
        except MachineError as error:
            said = str(error)
        self.records.with_name(f"{self.name}-{number}.journal").write_text(said)

    def _cut(self, machine: Machine, trial: Trial, plan: Plan) -> None:
        rng = random.Random(f"{trial.seed} losses")
        for pause in (None, *plan.again):
            if pause is not None:
                machine.start()
                time.sleep(pause)
            loss = machine.cut(rng)
            trial.cuts += 1
            trial.kept, trial.lost = trial.kept + loss.kept, trial.lost + loss.lost
            if pause is None:
                states = self._states(machine)
                trial.state = states[-1][1] if states else "before"

    def _recover(self, machine: Machine, trial: Trial, server: Server) -> None:
        machine.start()
        machine.plug(False)
        verdict = self.judge(machine)
        trial.healthy_after = round(verdict.healthy_after, 1)
        trial.broken += verdict.broken
        machine.plug(True)
        self.finish(machine, trial, server)
