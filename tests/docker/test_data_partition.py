"""What becomes of a data partition before it is mounted: mended or made, never lost by mistake."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "agent/system/files/usr/lib/composeapps/data-partition"
NEEDS = "readlink basename cat mktemp rmdir grep mkfs.ext4 mount umount resize2fs".split()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 * 1024**2)
    name = subprocess.check_output(["losetup", "-f", "--show", str(image)], text=True).strip()
    yield name
    subprocess.run(["losetup", "-d", name], check=True)


def prepare(device: str, path: str = os.environ["PATH"]) -> int:
    return subprocess.run(["/bin/sh", str(SCRIPT), device], env={"PATH": path}).returncode


def test_a_program_that_fails_destroys_nothing(device: str, tmp_path: Path) -> None:
    """Law L3: only a file system that cannot be mended is made anew."""
    assert prepare(device) == 0  # it was empty
    point = tmp_path / "point"
    point.mkdir()
    subprocess.run(["mount", device, str(point)], check=True)
    (point / "file").write_text("kept")
    subprocess.run(["umount", str(point)], check=True)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in NEEDS:
        (programs / name).symlink_to(shutil.which(name) or name)
    assert prepare(device) == 0
    assert prepare(device, str(programs)) != 0  # there is no e2fsck
    subprocess.run(["mount", device, str(point)], check=True)
    found = (point / "file").read_text()
    subprocess.run(["umount", str(point)], check=True)
    assert found == "kept"
