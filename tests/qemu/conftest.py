"""Virtual devices for the tests here: made once per module, world and disk their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import vmworld
from vmdevice import Device

import image
from architecture import AMD64, Architecture


@pytest.fixture(scope="module")
def make_device() -> Iterator[Callable[..., Device]]:
    """Return a function that makes a device that is off; it turns off the one before.

    Two machines would share two cores; all end with the module.
    """
    made: list[tuple[Device, Path]] = []

    def make(settings: str = vmworld.QUIET, architecture: Architecture = AMD64) -> Device:
        for before, _ in made:
            before.machine.cut()
        directory = Path(tempfile.mkdtemp(prefix="composeapps-vm-", dir="/var/tmp"))
        device = Device(directory, settings, architecture)
        made.append((device, directory))
        return device

    yield make
    for device, directory in made:
        device.close()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def device(make_device: Callable[..., Device]) -> Device:
    """Return a device that is off."""
    return make_device()


@pytest.fixture(scope="session")
def root_image() -> Path:
    """Return the root image that devices here have."""
    base = vmworld.factory_world()
    inputs = image.Inputs(base / "factory", settings=vmworld.SETTINGS + vmworld.QUIET)
    return image.root_image(inputs)
