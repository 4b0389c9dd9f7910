"""What is killed: a verb, what makes a device ready for it, and what has to come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from crashdevice import CrashDevice
from crashlaw import Expected


def update(device: CrashDevice) -> Expected:
    """An update to a release that passes."""
    before = device.current()
    version = device.publish()
    return Expected(version, {version: "committed"}, before)


def rollback(device: CrashDevice) -> Expected:
    """An update to a release that fails its gate."""
    before = device.current()
    return Expected(before, {device.publish(good=False): "failed"}, before)


def nothing_new(device: CrashDevice) -> Expected:
    """A verb that keeps the release."""
    before = device.current()
    return Expected(before, {}, before)


def garbage(device: CrashDevice) -> Expected:
    """A release that was fetched and never applied, for a newer one came."""
    before = device.current()
    for _ in range(2):
        version = device.publish()
        device.run_well("fetch")
    return Expected(version, {version: "committed"}, before)


def install(device: CrashDevice) -> Expected:
    """The first release of a device that holds nothing."""
    device.wipe()
    return Expected(device.version, {device.version: "committed"})


def first_start(device: CrashDevice) -> Expected:
    """The first start of a device whose image carries a release."""
    if not device.factory_version:
        device.make_factory()
    device.wipe()
    versions = (device.factory_version, device.version)
    return Expected(device.version, dict.fromkeys(versions, "committed"), device.factory_version)


@dataclass(frozen=True)
class Scenario:
    """A verb, and what makes a device ready for it."""

    verb: tuple[str, ...]
    prepare: Callable[[CrashDevice], Expected]
    #: Exit codes of the verb when nothing disturbs it.
    codes: tuple[int, ...] = (0,)


#: The last one gives the device an image of its own, which the others do not expect.
SCENARIOS = {
    "update": Scenario(("update",), update),
    "rollback": Scenario(("update",), rollback, (9,)),
    "reset-app": Scenario(("reset", "a"), nothing_new),
    "reset-engine": Scenario(("reset", "--engine"), nothing_new),
    "prune": Scenario(("prune",), garbage),
    "install": Scenario(("update",), install),
    "first-start": Scenario(("start",), first_start),
}
