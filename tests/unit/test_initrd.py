"""The initramfs: a well-formed archive, modules in the order in which they load, files for /run."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

import initrd

DEP = """\
kernel/fs/erofs/erofs.ko: kernel/lib/lz4.ko kernel/lib/crc.ko
kernel/lib/lz4.ko: kernel/lib/crc.ko
kernel/lib/crc.ko:
kernel/drivers/block/virtio_blk.ko:
"""


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Return a boot directory and a root with four modules."""
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "busybox").write_bytes(b"program")
    modules = tmp_path / "root/usr/lib/modules/6.12"
    for line in DEP.splitlines():
        path = modules / line.split(":")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.stem)
    (modules / "modules.dep").write_text(DEP)
    return tmp_path / "boot", tmp_path / "root"


def read(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Return modes and contents by name, as the kernel reads them."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        begin = (at + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (fields[1], archive[begin : begin + size])
        at = (begin + size + 3) // 4 * 4


def test_it_holds_what_boots_and_nothing_else(places: tuple[Path, Path]) -> None:
    found = read(initrd.build(*places))
    files = [name for name, (mode, _) in found.items() if stat.S_ISREG(mode)]
    assert files == [
        "init",
        "bin/busybox",
        "modules/00-virtio_blk.ko",
        "modules/01-crc.ko",
        "modules/02-lz4.ko",
        "modules/03-erofs.ko",
    ]
    assert found["modules/03-erofs.ko"][1] == b"erofs"
    assert stat.S_IMODE(found["init"][0]) == 0o755


def test_files_for_run_come_with_their_directories_and_modes(places: tuple[Path, Path]) -> None:
    files: dict[str, bytes | str] = {"a/b/tool": "#!/bin/sh\n", "a/link": "->b/tool", "text": b"x"}
    found = read(initrd.build(*places, files))
    assert stat.S_ISDIR(found["run-files/a"][0]) and stat.S_ISDIR(found["run-files/a/b"][0])
    assert found["run-files/a/b/tool"] == (stat.S_IFREG | 0o755, b"#!/bin/sh\n")
    assert found["run-files/a/link"] == (stat.S_IFLNK | 0o777, b"b/tool")
    assert found["run-files/text"][0] == stat.S_IFREG | 0o644


def test_cpio_reads_it(places: tuple[Path, Path]) -> None:
    if not shutil.which("cpio"):
        pytest.skip("cpio is not installed")
    done = subprocess.run(
        ["cpio", "-t"], input=initrd.build(*places), capture_output=True, check=True
    )
    assert b"bin/busybox" in done.stdout


def test_its_script_parses(tmp_path: Path) -> None:
    (tmp_path / "init").write_text(initrd.INIT)
    subprocess.run(["sh", "-n", str(tmp_path / "init")], check=True)
