"""The system files of a device: which there are, their modes, and that they are well-formed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from composeapps import config

SYSTEM = Path(__file__).resolve().parents[2] / "agent" / "system"
UNITS = "usr/lib/systemd/system"
EXPECTED = {
    "etc/containerd/config.toml": 0o644,
    "etc/docker/daemon.json": 0o644,
    "usr/lib/composeapps/composeapps.toml": 0o644,
    "usr/lib/composeapps/data-partition": 0o755,
    "usr/lib/composeapps/keep-machine-id": 0o755,
    "usr/lib/systemd/journald.conf.d/50-composeapps.conf": 0o644,
    "usr/lib/systemd/system-preset/50-composeapps.preset": 0o644,
    "usr/lib/systemd/system.conf.d/50-composeapps.conf": 0o644,
    f"{UNITS}/composeapps-data.service": 0o644,
    f"{UNITS}/composeapps-machine-id.service": 0o644,
    f"{UNITS}/composeapps-mount.service": 0o644,
    f"{UNITS}/composeapps-start.service": 0o644,
    f"{UNITS}/composeapps.service": 0o644,
    f"{UNITS}/containerd.service.d/50-composeapps.conf": 0o644,
    f"{UNITS}/docker.service.d/50-composeapps.conf": 0o644,
    f"{UNITS}/emergency.service.d/50-composeapps.conf": 0o644,
    "usr/lib/tmpfiles.d/composeapps.conf": 0o644,
}
#: What systemd-analyze says today (agent/system/README.md explains it); it only may get better.
EXPOSURE = 4.5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a directory into which the files were installed, with a strict umask."""
    command = f"umask 077; exec {SYSTEM / 'install'} {tmp_path}/root"
    subprocess.run(["sh", "-c", command], check=True, cwd="/")
    return tmp_path / "root"


def test_the_files_and_modes_are_these(root: Path) -> None:
    files = [path for path in root.rglob("*") if not path.is_dir()]
    found = {str(path.relative_to(root)): path.stat().st_mode & 0o7777 for path in files}
    assert found == EXPECTED


def test_a_second_installation_changes_nothing(root: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    subprocess.run([SYSTEM / "install", root], check=True)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_install_says_how_it_is_used() -> None:
    done = subprocess.run([SYSTEM / "install"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[:6]) == (2, "usage:")


def test_the_settings_are_valid(root: Path) -> None:
    settings = config.load([root / "usr/lib/composeapps/composeapps.toml"])
    assert settings.engine.stop[0] == settings.engine.start[0] == "systemctl"
    daemon = json.loads((root / "etc/docker/daemon.json").read_text())
    assert daemon["features"]["containerd-snapshotter"] is True
    tomllib.loads((root / "etc/containerd/config.toml").read_text())


def test_every_unit_that_has_to_run_is_enabled(root: Path) -> None:
    preset = (root / "usr/lib/systemd/system-preset/50-composeapps.preset").read_text()
    for unit in (root / UNITS).glob("*.service"):
        installs = "[Install]" in unit.read_text()
        assert installs == (f"enable {unit.name}\n" in preset), unit.name


def test_units_start_only_programs_that_are_there(root: Path) -> None:
    for unit in (root / UNITS).glob("*.service"):
        for program in re.findall(r"^Exec\w+=-?(\S+)", unit.read_text(), re.M):
            known = program in ("composeapps", "kill") or (root / program.lstrip("/")).exists()
            assert known, f"{unit.name}: {program}"


def test_shell_programs_parse(root: Path) -> None:
    for path in [SYSTEM / "install", *sorted((root / "usr/lib/composeapps").iterdir())]:
        if path.stat().st_mode & 0o100:
            subprocess.run(["sh", "-n", path], check=True)


def test_the_sandbox_does_not_get_weaker(root: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", "security", "--offline=yes", f"--root={root}"]
    command += [f"--threshold={EXPOSURE * 10:.0f}", "--no-pager", "composeapps.service"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
