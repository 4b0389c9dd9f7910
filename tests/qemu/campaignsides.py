"""The sides of a campaign: a device with composeapps, and one with stock Docker and Compose."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import vmlaw
import vmpeer
import vmworld
from campaignside import UPDATE_TIMEOUT, Server, Side, Trial
from test_power_cut import BAD
from world import World

from disk import Disk
from vm import Machine

VERSION = 2
#: Seconds that the report of an update may take once it has ended.
REPORT_TIMEOUT = 300.0


class Ours(Side):
    """A device that the maker's factory store came with, and that follows a signed channel."""

    name, title = "cuts", "composeapps"

    def __init__(self, place: Path, within: float) -> None:
        super().__init__(place, within)
        self._sites: dict[str, Path] = {}

    def make(self) -> Disk:
        """Publish all releases and write the disk of a device."""
        base = vmworld.factory_world()
        self._sites["old"] = base / "world" / "site"
        for name, compose in (("good", vmworld.PATIENT), ("bad", BAD)):
            shutil.copytree(base / "world", self.scratch / name)
            world = World(self.scratch / name)
            # Large enough for downloading and sealing to take a part of the time.
            world.release({"a": world.ticker(VERSION, size=vmpeer.SIZE, compose=compose)})
            self._sites[name] = world.site
        return vmworld.device_disk(self.scratch / "base.raw", base / "factory")

    def serve(self, release: str) -> vmworld.Server:
        """Serve a site."""
        return vmworld.Server(self._sites[release])

    def begin(self, machine: Machine) -> None:
        """Have the resident part look for a release, and have each state written down."""
        machine.send(vmlaw.ASK, "trace", str(VERSION), timeout=700)
        machine.send("systemctl", "reload", "composeapps.service")

    def ended(self, machine: Machine, release: str) -> bool:
        """Wait until the release is committed or failed."""
        return self._wait(machine) and dict(vmlaw.ask(machine, "law")["releases"]).get(VERSION) == (
            "committed" if release == "good" else "failed"
        )

    def _wait(self, machine: Machine) -> bool:
        words = ("state", str(VERSION), *vmlaw.ENDED)
        return machine.run(vmlaw.ASK, *words, timeout=UPDATE_TIMEOUT, check=False).code == 0

    def judge(self, machine: Machine) -> vmlaw.Verdict:
        """Ask the law."""
        trusted = set().union(*(vmlaw.images_of(site) for site in self._sites.values()))
        return vmlaw.judge(machine, ["v1"], trusted, self.within)

    def finish(self, machine: Machine, trial: Trial, server: Server) -> None:
        """Look for the release; ask whether it ended, as it has to, and was reported."""
        assert isinstance(server, vmworld.Server)
        machine.run("systemctl", "reload", "composeapps.service")
        well = self.ended(machine, trial.release)
        deadline = time.monotonic() + REPORT_TIMEOUT
        while True:
            facts = vmlaw.ask(machine, "law")
            broken = vmlaw.judge_outcome(facts, VERSION, server)
            if not broken or time.monotonic() > deadline:
                break
            time.sleep(3)
        trial.broken += broken
        if not well:
            trial.broken.append(f"L4: the {trial.release} release did not end as it has to")
            trial.broken += [f"its end: {row[1]} {row[2]}" for row in facts["events"]]


class Peer(Side):
    """A device with nothing but Docker, Compose and a unit that pulls and ups at boot.

    Of the law the same is asked as far as it can be: L4 is whether, with the network back, the
    good version runs, or one that is not the bad one; there is no report, and nothing is signed.
    """

    def __init__(self, place: Path, within: float, store: str) -> None:
        self.name, self.title = store, f"stock Docker, {store} store"
        self.options = f"PEER={store}"
        super().__init__(place, within)
        self._store = store
        self._releases: vmpeer.Releases | None = None

    @property
    def releases(self) -> vmpeer.Releases:
        """What the maker has published."""
        assert self._releases is not None, "the side is not prepared"
        return self._releases

    def make(self) -> Disk:
        """Push all versions and write the disk of a device."""
        self._releases = vmpeer.Releases(self.scratch)
        return vmpeer.device_disk(self.scratch / "base.raw", self._store)

    def serve(self, release: str) -> vmpeer.Registry:
        """Serve a registry."""
        return self.releases.open(release)

    def begin(self, machine: Machine) -> None:
        """Run the unit again, as at boot."""
        machine.send("systemctl", "restart", "peer.service")

    def ended(self, machine: Machine, release: str) -> bool:
        """Wait until the version that should run is healthy; the one before a bad one."""
        wanted = self.releases.ids["good" if release == "good" else "old"]
        # Nothing that this side does goes on for longer once the bad version runs.
        bound = UPDATE_TIMEOUT if release == "good" else self.within
        return vmlaw.wait(machine, bound, "runs", *wanted)

    def judge(self, machine: Machine) -> vmlaw.Verdict:
        """Ask the law, and whether containers see the files that their image has."""
        verdict = vmlaw.judge(machine, ["v1"], set(), self.within)
        verdict.broken = [line for line in verdict.broken if not line.startswith("L6")]
        if verdict.facts:
            verdict.broken += self._content(machine)
        return verdict

    def _content(self, machine: Machine) -> list[str]:
        return vmpeer.judge_content(vmlaw.ask(machine, "content"), self.releases)

    def finish(self, machine: Machine, trial: Trial, server: Server) -> None:
        """Let the unit run; ask whether the right version runs in the end."""
        machine.run("systemctl", "restart", "--no-block", "peer.service")
        if not self.ended(machine, trial.release):
            trial.broken.append(f"L4: the {trial.release} release did not end as it has to")
        trial.broken += self._content(machine)


def sides(place: Path, within: float) -> list[Side]:
    """Return all sides, ours first."""
    return [Ours(place, within), *(Peer(place, within, store) for store in vmpeer.STORES)]
