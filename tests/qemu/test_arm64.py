"""The same image for arm64: booted, offline; updated; its power cut."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import vmlaw
import yoctodevice
from vmdevice import Device, long

from architecture import ARM64

pytestmark = [
    long,
    pytest.mark.skipif(yoctodevice.ASKED, reason="bitbake built an image for x86-64"),
]


@pytest.fixture(scope="module")
def device(make_device: Callable[..., Device]) -> Device:
    """Return a device that is off."""
    return make_device(architecture=ARM64)


def test_first_boot_without_a_network_brings_the_apps_to_healthy(device: Device) -> None:
    device.boot(network=False)
    verdict = device.judge(fsynced=["v1"])
    assert verdict.broken == []
    assert verdict.facts["releases"] == [[1, "committed"]]
    assert device.machine.run("uname", "-m").out == "aarch64\n"


def test_the_data_partition_got_no_layer_and_all_units_are_well(device: Device) -> None:
    machine = device.machine
    assert machine.run("sh", "-c", "ls /var/lib/composeapps/store/layers").out == ""
    assert machine.run("systemctl", "--failed", "--plain", "--no-legend").out == ""
    mounts = machine.run("cat", "/proc/mounts").out
    assert len([line for line in mounts.splitlines() if " /run/composeapps/layers/" in line]) == 2


def test_an_update_survives_a_power_cut(device: Device, rng: random.Random) -> None:
    machine = device.machine
    machine.cut(rng)
    device.boot()
    assert device.judge(fsynced=["v1"]).broken == []
    version = device.release(2)
    waiting = machine.send(vmlaw.ASK, "state", str(version), "installing", timeout=960)
    machine.run("systemctl", "reload", "composeapps.service")
    found = machine.answer(waiting, 960)
    assert found is not None and found.code == 0
    print(machine.cut(rng))
    device.boot()
    assert machine.run(vmlaw.ASK, "state", str(version), *vmlaw.ENDED, timeout=960).code == 0
    verdict = device.judge(fsynced=["v1", "v2"])
    assert verdict.broken == [], verdict.facts
    assert dict(verdict.facts["releases"])[version] == "committed"
