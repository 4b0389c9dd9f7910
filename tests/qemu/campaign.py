"""``make power-cut N=60``: cuts a device's power at random moments of updates, and asks the law.

Every trial begins at the same snapshot, a healthy device with release 1, and is told by its
number and the campaign's seed alone: what is published, when power goes, how often it goes again
while the device recovers, which unflushed writes are lost. Results are added to
``build/power-cut/cuts.jsonl`` one by one, so that a campaign that was interrupted goes on; the
report beside them is written anew after each. A broken law ends nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT / "qemu"), str(ROOT / "agent")]

import campaignreport  # noqa: E402 - all of them need the path above
import vmlaw  # noqa: E402
import vmworld  # noqa: E402
from test_power_cut import BAD  # noqa: E402
from world import World  # noqa: E402

from channel import MachineError  # noqa: E402
from disk import Disk  # noqa: E402
from hardware import Options  # noqa: E402
from vm import Machine  # noqa: E402

PLACE = ROOT / "build" / "power-cut"
VERSION = 2
#: Seconds that an update may take, and its report.
UPDATE_TIMEOUT, REPORT_TIMEOUT = 900.0, 300.0
_STATE = re.compile(r"\[ *([0-9.]+)\] release \d+ is ([a-z-]+)")


@dataclass
class Trial:
    """What was done and what came of it; one line of ``cuts.jsonl``."""

    number: int
    seed: str
    #: ``good`` or ``bad``: the release that the device was offered.
    release: str
    #: Seconds after the look for a release at which the power went, and the state then.
    cut_after: float = 0.0
    state: str = ""
    #: How often the power went in all.
    cuts: int = 0
    kept: int = 0
    lost: int = 0
    #: Seconds from the last power-on to healthy, without a network.
    healthy_after: float = 0.0
    broken: list[str] = field(default_factory=list)


class Campaign:
    """The prepared device, and trials on copies of it."""

    def __init__(self, place: Path, seed: str) -> None:
        self.place = place
        self.seed = seed
        self.records = place / "cuts.jsonl"
        self._scratch = place / "scratch"
        self._options = Options(run_files={"composeapps-test/ask": vmlaw.ASK_FILE})
        self._sites: dict[str, Path] = {}
        self.timeline: list[tuple[float, str]] = []

    def prepare(self) -> None:
        """Make worlds, disk and snapshot anew, and see how long an update takes uncut."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        base = vmworld.factory_world()
        for name, compose in (("good", vmworld.PATIENT), ("bad", BAD)):
            shutil.copytree(base / "world", self._scratch / name)
            world = World(self._scratch / name)
            # Large enough for downloading and sealing to take a part of the time.
            world.release({"a": world.ticker(VERSION, size=4_000_000, compose=compose)})
            self._sites[name] = world.site
        disk = vmworld.device_disk(self._scratch / "base.raw", base / "factory")
        machine = self._machine(disk, vmworld.Server(self._sites["good"]))
        machine.start()
        verdict = vmlaw.judge(machine, ["v1"], self._trusted())
        if verdict.broken:
            journal = machine.run("journalctl", "-b", "-n", "60", "--no-pager").out
            raise SystemExit(f"the device is not well before any cut: {verdict}\n{journal}")
        machine.save(self._scratch / "snapshot")
        self.timeline = self._undisturbed()

    def _machine(self, disk: Disk, server: vmworld.Server) -> Machine:
        machine = Machine(self._scratch / "machine", disk, self._options)
        machine.reach(vmworld.PORT, server.address)
        return machine

    def _trusted(self) -> set[str]:
        return set().union(*(vmlaw.images_of(site) for site in self._sites.values()))

    def _copy(self, server: vmworld.Server) -> Machine:
        disk = Disk(self._scratch / "base.raw").copy(self._scratch / "trial.raw")
        machine = self._machine(disk, server)
        (machine.directory / "console.log").unlink(missing_ok=True)
        return machine

    def _begin(self, machine: Machine) -> None:
        machine.start(self._scratch / "snapshot")
        machine.run("true")
        machine.send(vmlaw.ASK, "trace", str(VERSION), timeout=700)
        machine.send("systemctl", "reload", "composeapps.service")

    def _undisturbed(self) -> list[tuple[float, str]]:
        server = vmworld.Server(self._sites["good"])
        machine = self._copy(server)
        self._begin(machine)
        begun = machine.seconds
        ended = machine.run(
            vmlaw.ASK, "state", str(VERSION), *vmlaw.ENDED, timeout=UPDATE_TIMEOUT, check=False
        )
        if ended.code != 0:
            raise SystemExit(f"an uncut update does not end: {machine.console(20)}")
        time.sleep(1)
        found = [(at - begun, state) for at, state in self._states(machine)]
        machine.close()
        server.close()
        return found

    def _states(self, machine: Machine) -> list[tuple[float, str]]:
        text = (machine.directory / "console.log").read_text("utf-8", "replace")
        return [(float(at), state) for at, state in _STATE.findall(text)]

    @property
    def length(self) -> float:
        """Seconds that an update takes uncut."""
        return self.timeline[-1][0] if self.timeline else 0.0

    def trial(self, number: int) -> Trial:
        """Do one trial, whatever comes of it."""
        seed = f"{self.seed}:{number}"
        rng = random.Random(seed)
        trial = Trial(number, seed, rng.choices(("good", "bad"), (4, 1))[0])
        # A little beyond the end: an update that has just been committed may be lost too.
        trial.cut_after = rng.random() * self.length * 1.15
        server = vmworld.Server(self._sites[trial.release])
        machine = self._copy(server)
        try:
            self._begin(machine)
            self._cut(machine, trial, rng)
            self._recover(machine, trial, server)
        except MachineError as error:
            trial.broken.append(f"L1: {error}")
        finally:
            machine.close()
            server.close()
        return trial

    def _cut(self, machine: Machine, trial: Trial, rng: random.Random) -> None:
        time.sleep(trial.cut_after)
        for again in range(rng.choices((1, 2, 5), (8, 2, 1))[0]):
            if again:
                machine.start()
                time.sleep(rng.random() * 40)
            loss = machine.cut(rng)
            trial.cuts += 1
            trial.kept, trial.lost = trial.kept + loss.kept, trial.lost + loss.lost
            if not again:
                states = self._states(machine)
                trial.state = states[-1][1] if states else "before"

    def _recover(self, machine: Machine, trial: Trial, server: vmworld.Server) -> None:
        machine.start()
        machine.plug(False)
        verdict = vmlaw.judge(machine, ["v1"], self._trusted())
        trial.healthy_after = round(verdict.healthy_after, 1)
        trial.broken += verdict.broken
        machine.plug(True)
        machine.run("systemctl", "reload", "composeapps.service")
        machine.run(
            vmlaw.ASK, "state", str(VERSION), *vmlaw.ENDED, timeout=UPDATE_TIMEOUT, check=False
        )
        deadline = time.monotonic() + REPORT_TIMEOUT
        while True:
            facts = vmlaw.ask(machine, "law")
            broken = vmlaw.judge_outcome(facts, VERSION, server)
            if not broken or time.monotonic() > deadline:
                break
            time.sleep(3)
        trial.broken += broken
        wanted = "committed" if trial.release == "good" else "failed"
        if dict(facts["releases"]).get(VERSION) != wanted:
            trial.broken.append(f"L4: the {trial.release} release is not {wanted}")


def main() -> int:
    """Run a campaign, or one trial of it again."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("count", type=int, help="trials in all, earlier ones included")
    parser.add_argument("--seed", default=os.environ.get("SEED") or "1")
    parser.add_argument("--only", type=int, help="do this trial again and nothing else")
    parser.add_argument("--place", type=Path, default=PLACE)
    arguments = parser.parse_args()
    arguments.place.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(arguments.place, arguments.seed)
    done = _done(campaign.records) if arguments.only is None else []
    numbers = [arguments.only] if arguments.only is not None else range(len(done), arguments.count)
    if numbers:
        campaign.prepare()
    for number in numbers:
        trial = campaign.trial(number)
        print(f"{trial.number}: {trial.state}, healthy {trial.healthy_after} s, {trial.broken}")
        done.append(asdict(trial))
        if arguments.only is None:
            with campaign.records.open("a") as file:
                file.write(json.dumps(asdict(trial)) + "\n")
        report = campaignreport.render(done, campaign.timeline)
        (arguments.place / "report.html").write_text(report)
    print(f"report: {arguments.place / 'report.html'}")
    return 1 if any(record["broken"] for record in done) else 0


def _done(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
