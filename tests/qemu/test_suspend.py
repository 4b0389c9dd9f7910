"""A device that slept (S3) looks for a release when it wakes, for time asleep is time passed."""

from __future__ import annotations

import time
from collections.abc import Callable

import vmlaw
from vmdevice import Device, long

from channel import MachineError

#: Seconds between two looks for a release.
INTERVAL = 200
CLOCKS = """\
import time
print(time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME))
"""


def clocks(device: Device) -> tuple[float, float]:
    """Return the seconds that the guest has been awake, and those since its boot."""
    awake, passed = device.machine.run("python3", "-c", CLOCKS).out.split()
    return float(awake), float(passed)


def looks(device: Device) -> int:
    """Return how often the device has asked for the newest metadata."""
    return sum(path.endswith("/timestamp.json") for path in device.server.paths)


def wait(what: Callable[[], bool], seconds: float) -> None:
    """Wait until it is so.

    Raises:
        MachineError: it is not after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise MachineError(f"not so after {seconds:g} s")
        time.sleep(0.2)


@long
def test_a_device_that_wakes_up_looks_for_what_came_while_it_slept(
    make_device: Callable[..., Device],
) -> None:
    device = make_device(f"interval = {INTERVAL}\njitter = 0\n")
    machine = device.machine
    device.boot()
    assert device.judge(["v1"]).broken == []
    wait(lambda: looks(device) > 0, 300)
    # One that ends after the sleep counts from there.
    looking = ("pgrep", "-f", "composeapps.cli update")
    wait(lambda: machine.run(*looking, check=False).code == 1, 300)
    before, (awake, passed) = looks(device), clocks(device)
    version = device.release(2)
    # QEMU's watchdog counts on while the system sleeps, where hardware's stops.
    machine.monitor("watchdog-set-action", action="none")
    machine.send("sh", "-c", "sync; echo mem > /sys/power/state")
    wait(lambda: machine.monitor("query-status")["status"] == "suspended", 60)
    assert looks(device) == before
    time.sleep(INTERVAL + 10)
    machine.monitor("system_wakeup")
    wait(lambda: looks(device) > before, INTERVAL)
    awake, passed = (now - then for now, then in zip(clocks(device), (awake, passed), strict=True))
    assert awake < INTERVAL <= passed, "it slept, and looked sooner than one that had been awake"
    assert machine.run(vmlaw.ASK, "state", str(version), *vmlaw.ENDED, timeout=900).code == 0
    assert device.judge(["v1", f"v{version}"]).broken == []
