"""README's ``python -m qemu build|boot|shell|cut``, as a person types them in two terminals."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import vmworld

ROOT = Path(__file__).resolve().parents[2]
#: Seconds until the device takes commands; as for any boot here, a busy machine included.
WITHIN = 600.0


@pytest.fixture
def disk() -> Iterator[Path]:
    """Return where a disk image can be: a tmpfs has no room for it."""
    with tempfile.TemporaryDirectory(prefix="composeapps-vm-", dir="/var/tmp") as place:
        yield Path(place) / "disk.raw"


def argv(verb: str, disk: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "qemu", verb, str(disk), *words]


def run(verb: str, disk: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = argv(verb, disk, *words)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN)


def test_build_boot_shell_and_cut(disk: Path) -> None:
    built = run("build", disk, "--factory", str(vmworld.factory_world() / "factory"))
    assert built.returncode == 0, built.stderr
    booted = subprocess.Popen(
        argv("boot", disk, "--no-network"), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        socket = disk.with_suffix(".machine") / "channel.socket"
        deadline = time.monotonic() + WITHIN
        while not socket.exists():
            assert booted.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        for _ in range(2):  # one terminal after the other
            asked = run("shell", disk, "composeapps", "--version")
            assert asked.returncode == 0, asked.stderr
            assert asked.stdout.startswith("composeapps ")
        cut = run("cut", disk)
        assert cut.returncode == 0, cut.stderr
        told, _ = booted.communicate(timeout=60)
    finally:
        booted.kill()
        booted.wait()
    assert booted.returncode == 0
    assert "writes are on the disk" in told
