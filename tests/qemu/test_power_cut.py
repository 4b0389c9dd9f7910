"""The power goes in each state of an update: the device boots, offline, and keeps the law.

One device, one boot per cut: each case leaves a device whose update is finished, and the next
update begins there. What was not flushed is lost by chance, from the seed that a failure prints.
"""

from __future__ import annotations

import json
import random
import time

import pytest
import vmlaw
from vmdevice import Device
from vmworld import PATIENT

#: Becomes unhealthy, soon: the release is rolled back.
BAD = (
    PATIENT.replace("[CMD, test, -s, /data/log]", "[CMD, 'false']")
    .replace("start_period: 300s", "start_period: 1s\n      retries: 2")
    .replace(" interval: 60s", " interval: 5s")
)
#: Bytes per second while the power is to go in the middle of the download.
SLOW = 30_000
#: Share of packets that are lost meanwhile and until that update's end, in each direction.
LOSS = 0.05
#: Sealing is a part of fetching.
STATES = ("fetching", "sealing", "fetched", "installing", "starting", "committed")
SEALS = "mkfs.erofs"


class Journey:
    """What the cases share: the newest release's number and what the app has fsynced so far."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.marks = ["v1"]
        self._number = 1
        device.options.lossy = True
        device.boot()
        verdict = device.judge(self.marks)
        assert verdict.broken == []

    def cut_in(self, state: str, rng: random.Random, compose: str = PATIENT) -> int:
        """Publish, let the device find it, take the power away in a state; return the version."""
        device, machine = self.device, self.device.machine
        machine.plug(True)  # a case that failed may have left it out
        log = machine.run("cat", "/var/lib/docker/volumes/a_data/_data/log").out
        self.marks = log.split()  # minutes old: fsynced
        self._number += 1
        size = 2_000_000 if state == "sealing" else 200_000
        version = device.release(self._number, compose, size=size)
        bad = state == "fetching"
        machine.relays[8000].quality.rate = SLOW if bad else 0
        machine.packets.loss = LOSS if bad else 0
        words = ("process", SEALS) if state == "sealing" else ("state", str(version), state)
        waiting = machine.send(vmlaw.ASK, *words, timeout=900)
        time.sleep(1)
        machine.run("systemctl", "reload", "composeapps.service")
        found = machine.answer(waiting, 900)
        assert found is not None and found.code == 0, f"{state} was not reached\n{found}"
        time.sleep(rng.random() * (0.5 if state == "sealing" else 2))
        loss = machine.cut(rng)
        print(f"cut in {state} {machine.seconds:.0f} s after power-on: {loss}")
        assert machine.packets.lost or not bad, "the download was to lose packets"
        return version

    def recover(self, version: int) -> None:
        """Boot without a network and ask the law; then plug it in and see the update end."""
        device, machine = self.device, self.device.machine
        device.boot()
        machine.plug(False)
        verdict = device.judge(self.marks)
        assert verdict.broken == [], verdict.facts
        machine.plug(True)
        machine.run("systemctl", "reload", "composeapps.service")
        ended = machine.run(vmlaw.ASK, "state", str(version), *vmlaw.ENDED, timeout=900)
        assert ended.code == 0
        facts = self._reported(version)
        assert vmlaw.judge_outcome(facts, version, device.server) == []

    def _reported(self, version: int) -> dict[str, object]:
        deadline = time.monotonic() + 300
        while True:
            facts: dict[str, object] = vmlaw.ask(self.device.machine, "law")
            done = not vmlaw.judge_outcome(facts, version, self.device.server)
            if done or time.monotonic() > deadline:
                return facts
            time.sleep(3)


@pytest.fixture(scope="module")
def journey(device: Device) -> Journey:
    """Return a device that has booted and is healthy."""
    return Journey(device)


def test_cut_in_the_first_boot_again_and_again(device: Device, rng: random.Random) -> None:
    """The data partition grows, the engine's store begins; early start and start take their turn.

    What the law says of it is asked in the boot that follows, which is the next case's first.
    """
    for begin in (4, 14, 24):
        device.boot(network=False)
        time.sleep(begin + rng.random() * 10)
        print(device.machine.cut(rng))


@pytest.mark.parametrize("state", STATES)
def test_cut_in_an_update(journey: Journey, state: str, rng: random.Random) -> None:
    journey.recover(journey.cut_in(state, rng))


def test_cut_while_rolling_back(journey: Journey, rng: random.Random) -> None:
    version = journey.cut_in("rolling-back", rng, BAD)
    journey.recover(version)
    assert dict(vmlaw.ask(journey.device.machine, "law")["releases"])[version] == "failed"


def test_cut_again_and_again_while_recovering(journey: Journey, rng: random.Random) -> None:
    version = journey.cut_in("installing", rng)
    for _ in range(3):
        journey.device.boot()
        time.sleep(10 + rng.random() * 40)
        print(journey.device.machine.cut(rng))
    journey.recover(version)


@pytest.mark.parametrize("what", ["a", "--engine"])
def test_cut_during_a_reset(journey: Journey, rng: random.Random, what: str) -> None:
    device = journey.device
    ended = device.command("reset", what, within=5 + rng.random() * 10)
    assert ended is None or ended.code == 0, ended
    print(f"{'after' if ended else 'during'} the reset: {device.machine.cut(rng)}")
    device.boot(network=False)
    verdict = device.judge(journey.marks)
    assert verdict.broken == [], json.dumps(verdict.facts)
