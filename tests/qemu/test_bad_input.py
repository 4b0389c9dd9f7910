"""What a device may be born with: damage in its root image, no apps in it, a clock at 1970."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import vmlaw
import vmworld
import yoctodevice
from vmdevice import Device, long
from vmworld import PATIENT
from world import base_layer, noise_layer

import image

MAIN = "docker.socket docker.service containerd.service composeapps.service"
#: Where an EROFS image has its superblock (Linux, Documentation/filesystems/erofs.rst).
SUPERBLOCK = 1024
debian = pytest.mark.skipif(
    yoctodevice.ASKED, reason="makes a root image of its own: make long runs it on Debian's"
)


def app(device: Device, number: int, mark: str) -> str:
    layers = [base_layer(), noise_layer(number, 200_000)]
    stored = device.world.image("ticker", layers, {})
    return device.world.app(PATIENT.format(image=stored, mark=mark))


def log(device: Device, name: str) -> list[str]:
    path = f"/var/lib/docker/volumes/{name}_data/_data/log"
    return device.machine.run("cat", path, check=False).out.split()


def flip(disk: Path, layer: Path) -> None:
    """Flip a bit of a sealed layer's superblock, where the root image in slot A has the layer."""
    data = layer.read_bytes()
    root = disk.read_bytes()[: 600 * 1024**2]
    at = root.find(data[: SUPERBLOCK + 128])
    assert at > 0, "layers lie in the root image as they are"
    with disk.open("r+b") as file:
        file.seek(at + SUPERBLOCK)
        file.write(bytes([data[SUPERBLOCK] ^ 1]))


@long
@debian
def test_a_flipped_bit_in_a_factory_layer_is_one_apps_matter(
    make_device: Callable[..., Device],
) -> None:
    device = make_device()
    version = device.world.release({"a": app(device, 11, "a"), "b": app(device, 12, "b")})
    factory = device.disk.path.with_name("two-apps")
    vmworld.preload(device.world.site, factory)
    vmworld.device_disk(device.disk.path, factory)
    damaged = max(
        (path for path in (factory / "layers").iterdir() if b"noise-11" in path.read_bytes()),
        key=lambda path: path.stat().st_size,
        default=None,
    )
    assert damaged is not None
    flip(device.disk.path, damaged)
    device.boot()
    device.machine.plug(False)
    device.machine.wait_for_channel(vmlaw.HEALTHY_WITHIN)
    device.machine.run("systemctl", "start", "composeapps-start.service", check=False)
    found = device.machine.run("composeapps", "status", "--json", check=False)
    print(found.out)
    assert log(device, "b") == ["b"]
    said = device.machine.run("journalctl", "-b", "-u", "composeapps*", "--no-pager").out
    assert damaged.name.split(".")[0] in said
    device.machine.plug(True)
    device.machine.run("systemctl", "reload", "composeapps.service")
    # It failed for damage, which is not its own fault: what is damaged is fetched.
    device.machine.run(vmlaw.ASK, "state", str(version), "committed", timeout=960)
    assert device.machine.run(vmlaw.ASK, "settled", "300", timeout=400).code == 0
    assert log(device, "a")[-1] == "a"


@long
@debian
def test_an_image_without_apps_says_so_and_takes_a_release(
    make_device: Callable[..., Device],
) -> None:
    device = make_device()
    settings = vmworld.SETTINGS + vmworld.QUIET
    inputs = image.Inputs(root=device.world.root, settings=settings)
    image.write_disk(image.root_image(inputs), device.disk.path, vmworld.DISK_SIZE)
    device.boot()
    machine = device.machine
    machine.plug(False)
    machine.wait_for_channel(vmlaw.HEALTHY_WITHIN)
    for unit in MAIN.split():
        assert machine.run("systemctl", "start", unit).code == 0
    said = machine.run("journalctl", "-b", "-u", "composeapps*", "--no-pager").out
    assert "no release is installed: run composeapps update, or preload one" in said
    assert vmlaw.ask(machine, "law")["containers"] == []
    machine.plug(True)
    machine.run("systemctl", "reload", "composeapps.service")
    assert machine.run(vmlaw.ASK, "state", "1", *vmlaw.ENDED, timeout=960).code == 0
    verdict = device.judge(["v1"])
    assert verdict.broken == [], verdict.facts


@long
def test_a_clock_at_1970(make_device: Callable[..., Device]) -> None:
    """systemd lifts the clock to its own age; then it is set back while the device runs."""
    device = make_device()
    device.options.clock = "1970-01-01"
    device.boot()
    assert device.judge(["v1"]).broken == []
    machine = device.machine
    print(machine.run("date").out)
    machine.run("date", "-s", "@100000")
    assert machine.run("date", "+%Y").out == "1970\n"
    version = device.release(2)
    machine.run("systemctl", "reload", "composeapps.service")
    assert machine.run(vmlaw.ASK, "state", str(version), *vmlaw.ENDED, timeout=960).code == 0
    machine.cut(random.Random(1))
    device.boot()
    verdict = device.judge(["v1", "v2"])
    assert verdict.broken == [], json.dumps(verdict.facts)
    assert dict(verdict.facts["releases"])[version] == "committed"
