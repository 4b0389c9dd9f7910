"""The engine's store is damaged: the device heals, offline and unasked, and the law holds.

One device; each kind leaves it whole, and the next begins there.
"""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from vmdamage import KINDS, QUIET, START, STOP, Kind
from vmdevice import Device, long
from vmlaw import ASK, HEALTHY_WITHIN

LOG = "/var/lib/docker/volumes/a_data/_data/log"
#: The engine does not start by itself.
ALWAYS = ("containerd-database",)
#: Seconds; what is mended after the apps are healthy again is mended by the next look.
WHOLE_WITHIN = 300.0


class Patient:
    """A device that runs, and what it has fsynced so far."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.machine = device.machine
        self.marks = ["v1"]
        device.boot(network=False)
        assert device.judge(self.marks).broken == []

    def mark(self, kind: Kind) -> None:
        """Write to the app's volume: the app itself writes the same line at each start."""
        self.marks.append(kind.name)
        self.machine.run("sh", "-c", f"echo {kind.name} >>{LOG}; sync {LOG}")

    def damage(self, kind: Kind) -> None:
        """Do it and leave the device to itself, in the next boot or in this."""
        if kind.running:
            self.machine.run("sh", "-c", f"{STOP}\n{kind.script}\n{START}", check=False)
            return
        self.machine.run("sh", "-c", f"{QUIET}\n{STOP}\n{kind.script}\nsync")
        start = int(self.machine.run("cat", "/sys/block/vda/vda3/start").out) * 512
        if kind.cleared:  # else the journal would bring the inode back
            self.machine.shut_down(300)
            clear(f"{self.device.disk.path}?offset={start}", kind.cleared.removeprefix("/var"))
        else:
            self.machine.cut()
        self.device.boot(network=False)

    def heal(self) -> None:
        """Wait until it is healthy and whole; hold it to the law.

        The engine may have started all containers, while what it needs for the next start is
        still being mended.
        """
        begun = time.monotonic()
        found = self.machine.run(ASK, "healthy", str(HEALTHY_WITHIN), timeout=HEALTHY_WITHIN + 60)
        assert found.code == 0
        print(f"healthy {time.monotonic() - begun:.0f} s after it was left to itself")
        words = ("-b", "-u", "composeapps*", "-o", "cat", "-n", "12", "--no-pager")
        print(self.machine.run("journalctl", *words).out)
        assert self.verify() == []
        verdict = self.device.judge(self.marks)
        assert verdict.broken == [], (verdict.broken, verdict.facts)
        assert verdict.facts["releases"] == [[1, "committed"]]

    def verify(self) -> list[object]:
        """Return what composeapps finds wrong, once nothing is or it had its time to mend it."""
        deadline = time.monotonic() + WHOLE_WITHIN
        while True:
            found: list[object] = json.loads(
                self.machine.run("composeapps", "verify", "--json", check=False).out
            )
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(2)


def clear(disk: str, path: str) -> None:
    """Clear a file's inode on a file system that was unmounted."""
    state = subprocess.check_output(["dumpe2fs", "-h", disk], text=True)
    assert "needs_recovery" not in state
    subprocess.run(["debugfs", "-w", "-R", f"clri {path}", disk], check=True)
    said = subprocess.check_output(["debugfs", "-R", f"stat {path}", disk], text=True)
    assert "Mode:  0000" in said, said


@pytest.fixture(scope="module")
def patient(device: Device) -> Patient:
    """Return a device that has booted and is healthy."""
    return Patient(device)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, id=kind.name, marks=() if kind.name in ALWAYS else long) for kind in KINDS],
)
def test_the_device_heals(patient: Patient, kind: Kind) -> None:
    patient.mark(kind)
    patient.damage(kind)
    patient.heal()
