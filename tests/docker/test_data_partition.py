"""What becomes of a data partition before it is mounted: mended or made, never lost by mistake."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "agent/system/files/usr/lib/composeapps/data-partition"
NEEDS = "readlink basename cat mktemp rmdir grep e2fsck mkfs.ext4 mount umount resize2fs".split()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(64 * 1024**2)
    name = subprocess.check_output(["losetup", "-f", "--show", str(image)], text=True).strip()
    yield name
    subprocess.run(["losetup", "-d", name], check=True)


@pytest.fixture
def kept(device: str, tmp_path: Path) -> Iterator[str]:
    """A file system that holds a file, which has to be there at the end."""
    assert prepare(device) == 0  # it was empty
    with mounted(device, tmp_path) as point:
        (point / "file").write_text("kept")
    yield device
    with mounted(device, tmp_path) as point:
        assert (point / "file").read_text() == "kept"


def prepare(device: str, path: str = os.environ["PATH"]) -> int:
    return subprocess.run(["/bin/sh", str(SCRIPT), device], env={"PATH": path}).returncode


@contextmanager
def mounted(device: str, tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "point"
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", device, str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


def programs(directory: Path, **replaced: str) -> str:
    """Return a PATH where some programs are shell scripts, and those with no text are missing."""
    directory.mkdir()
    for name in NEEDS:
        if name not in replaced:
            (directory / name).symlink_to(shutil.which(name) or name)
        elif text := replaced[name]:
            (directory / name).write_text(f"#!/bin/sh\n{text}\n")
            (directory / name).chmod(0o755)
    return str(directory)


#: What the programs do where something passing is wrong; the words are their own.
FAULTS = {
    "no e2fsck": {"e2fsck": ""},
    "e2fsck without memory": {
        "e2fsck": "echo 'e2fsck: Memory allocation failed while reading inodes' >&2; exit 8"
    },
    "e2fsck of an older firmware": {
        "e2fsck": 'echo "$3 has unsupported feature(s): FEATURE_I31" >&2; exit 8'
    },
    "e2fsck is used wrongly": {"e2fsck": "exit 16"},
    "no mount": {"mount": ""},
    "mount without memory": {
        "mount": "echo 'mount: /run/x: fsconfig() failed: Cannot allocate memory.' >&2; exit 32"
    },
    "mount, a system error": {"mount": "exit 2"},
    "the device is busy": {
        "mount": "echo 'mount: /run/x: /dev/x already mounted or mount point busy.' >&2; exit 32"
    },
    "no ext4": {
        "grep": f'case "$*" in *ext4*) exit 1 ;; *) exec {shutil.which("grep")} "$@" ;; esac'
    },
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_program_that_fails_destroys_nothing(kept: str, tmp_path: Path, fault: str) -> None:
    """Law L3: only a file system that cannot be mended is made anew."""
    assert prepare(kept, programs(tmp_path / "good")) == 0
    assert prepare(kept, programs(tmp_path / "bad", **FAULTS[fault])) != 0


def test_a_mount_that_fails_once_is_tried_again(kept: str, tmp_path: Path) -> None:
    """The kernel may refuse what a full check finds to be good."""
    once = f"""
        if ! [ -e {tmp_path}/once ]; then
            : >{tmp_path}/once
            echo 'mount: wrong fs type' >&2
            exit 32
        fi
        exec {shutil.which("mount")} "$@"
    """
    assert prepare(kept, programs(tmp_path / "bin", mount=once)) == 0
    assert (tmp_path / "once").exists()


def test_words_in_what_is_damaged_say_nothing_of_the_program(kept: str, tmp_path: Path) -> None:
    """Errors that are left name files and inodes: they are what a full check is for (law L1)."""
    left = f"""
        [ "$1" = -p ] || exec {shutil.which("e2fsck")} "$@"
        echo "Inode 12 is in use, but has dtime set. Entry 'memory' is a link to '/busy'." >&2
        exit 4
    """
    assert prepare(kept, programs(tmp_path / "bin", e2fsck=left)) == 0


def test_what_cannot_be_mended_is_made_anew(device: str, tmp_path: Path) -> None:
    assert prepare(device) == 0
    with mounted(device, tmp_path) as point:
        (point / "file").write_text("lost")
    subprocess.run(["dd", "if=/dev/urandom", f"of={device}", "bs=1M", "count=60"], check=True)
    assert prepare(device) == 0
    with mounted(device, tmp_path) as point:
        assert not (point / "file").exists()
