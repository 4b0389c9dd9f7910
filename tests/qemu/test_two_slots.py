"""Two root images with other factory stores, one in each slot, and no firmware updater's hook.

The newest of committed and factory release runs, and nothing of the other slot is used any more.
One device goes through all of this in order.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import vmlaw
import vmworld
from vmdevice import Device, long
from vmworld import PATIENT
from world import base_layer, noise_layer

DATA, FACTORY = "/var/lib/composeapps/store/layers", "/usr/share/composeapps/factory/layers"
#: A name of the other slot anywhere in what outlives a boot, links included.
POINTS = """\
grep -rl /run/slots /var/lib/composeapps
find /var/lib/containerd /var/lib/docker /var/lib/composeapps -lname '/run/slots*'
"""


@pytest.fixture(scope="module")
def slots(make_device: Callable[..., Device]) -> Device:
    """Return a device whose slot A has release 1, and slot B release 2 on another base."""
    device = make_device()
    assert release(device, 2, 102) == 2
    other = device.disk.path.with_name("factory-b")
    vmworld.preload(device.world.site, other)
    vmworld.device_disk(device.disk.path, device.factory, other=other)
    return device


def release(device: Device, number: int, below: int) -> int:
    """Sign a release whose image has two layers of noise, the lower one of this number."""
    lower = noise_layer(below, 200_000)
    layers = [base_layer(), lower, noise_layer(number, 100_000)]
    image = device.world.image("ticker", layers, {})
    artifact = device.world.app(PATIENT.format(image=image, mark=f"v{number}"))
    return device.world.release({"a": artifact})


def runs(device: Device, version: int) -> dict[str, Any]:
    """Hold a device that has booted to the law, and to running this release."""
    device.machine.wait_for_channel(vmlaw.HEALTHY_WITHIN)
    device.machine.run(vmlaw.ASK, "state", str(version), "committed", timeout=960)
    verdict = device.judge(["v1"])
    assert verdict.broken == [], verdict.facts
    assert verdict.facts["volumes"]["a_data/_data/log"].split()[-1] == f"v{version}"
    status: dict[str, Any] = json.loads(device.machine.run("composeapps", "status", "--json").out)
    assert (status["current"]["version"], status["stand_in"]) == (version, None)
    return status


def own_layers(device: Device) -> int:
    """Return how many layers the data store has; nothing may point into the other slot."""
    machine = device.machine
    mounts = machine.run("cat", "/proc/mounts").out.splitlines()
    sealed = [line for line in mounts if " /run/composeapps/layers/" in line]
    assert sealed
    assert all(line.startswith((DATA, FACTORY)) for line in sealed), sealed
    assert machine.run("sh", "-c", POINTS, check=False).out == ""
    return len(machine.run("ls", DATA).out.split())


def test_the_image_in_slot_a_brings_its_release(slots: Device) -> None:
    slots.boot(network=False)
    runs(slots, 1)


def test_a_newer_image_brings_its_release(slots: Device) -> None:
    slots.machine.cut()
    slots.boot(network=False, slot="b")
    runs(slots, 2)
    assert own_layers(slots) == 0, "both ran from the image"


def test_on_the_older_image_the_committed_release_runs(slots: Device) -> None:
    """Nobody called ``composeapps keep``: what it lacks is taken from the slot that was left."""
    slots.machine.cut()
    slots.boot(network=False)
    runs(slots, 2)
    assert own_layers(slots) == 2, "the base is in both"


@long
def test_a_release_from_the_network_that_shares_layers_with_the_image(slots: Device) -> None:
    """Release 3 stands on the layer that only the image in slot A has."""
    slots.machine.cut()
    slots.boot()
    runs(slots, 2)
    version = release(slots, 3, 1)
    slots.machine.run("systemctl", "reload", "composeapps.service")
    slots.machine.run(vmlaw.ASK, "state", str(version), *vmlaw.ENDED, timeout=900)
    runs(slots, 3)
    before = own_layers(slots)
    slots.machine.cut()
    slots.boot(network=False, slot="b")
    runs(slots, 3)
    assert own_layers(slots) == before + 1
