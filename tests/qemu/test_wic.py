"""The whole disk that bitbake's wic wrote boots by itself: firmware, systemd-boot, its own kernel.

Nothing is added to it: what the test asks with comes as credentials (``qemu/credentials.py``).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import vmlaw
import yoctodevice
from world import World

from disk import Disk
from hardware import Options
from vm import Machine

WIC = yoctodevice.DIRECTORY / "disk.wic"
FIRMWARE = Path("/usr/share/OVMF")
MIB = 1024**2
pytestmark = [
    pytest.mark.skipif(not WIC.exists(), reason=f"{WIC} is not there: make yocto writes it"),
    pytest.mark.skipif(
        not (FIRMWARE / "OVMF_CODE_4M.fd").exists(), reason="Debian's package ovmf is missing"
    ),
]


def test_the_disk_boots_without_a_network_and_the_apps_run(tmp_path: Path) -> None:
    disk = Disk(WIC).copy(tmp_path / "disk.raw")
    with disk.path.open("r+b") as file:
        file.truncate(disk.path.stat().st_size + 512 * MIB)
    shutil.copytree(yoctodevice.directory() / "world", tmp_path / "world")
    options = Options(network=False, tree=yoctodevice.directory(), firmware=FIRMWARE)
    options.run_files = {"composeapps-test/ask": vmlaw.ASK_FILE}
    machine = Machine(tmp_path / "machine", disk, options)
    try:
        machine.start()
        trusted = vmlaw.images_of(World(tmp_path / "world").site)
        for _ in range(2):
            verdict = vmlaw.judge(machine, ["v1"], trusted)
            print(f"healthy {verdict.healthy_after:.1f} s after power-on")
            assert verdict.broken == [], verdict.facts
            assert verdict.facts["releases"] == [[1, "committed"]]
            root = machine.run("findmnt", "-no", "PARTLABEL,FSTYPE,OPTIONS", "/").out.split()
            assert root[:2] == ["root-a", "erofs"] and "ro" in root[2].split(",")
            size = int(machine.run("lsblk", "-bno", "SIZE", "/dev/disk/by-partlabel/data").out)
            assert size > 500 * MIB, "the data partition has not grown"
            machine.cut()
            machine.start()
    finally:
        machine.close()
