"""The layer's own tests, run on the booted image: the case for ``testimage``, and ptest.

openembedded-core's own runner runs the case. The way in is the tests' channel, not SSH, which the
image does not have: its package is said to be installed, so that cases that wait for SSH run. What
ptest wants besides the agent (pytest and what it needs) is in no image here, and comes from PyPI.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import vmworld
import yoctodevice
from vmdevice import Device

LIBRARY = yoctodevice.DIRECTORY / "lib"
ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "meta-composeapps/lib/oeqa/runtime/cases"
PTEST = ROOT / "meta-composeapps/recipes-core/composeapps/files/run-ptest"
#: What the recipe installs beside it (``do_install_ptest``; tests/yocto/test_layer.py runs that).
PTEST_FILES = {
    "tests": "tests",
    "qemu/tree.py": "qemu/tree.py",
    "agent/pyproject.toml": "pyproject.toml",
}
#: Python of the stand-in's Debian.
WHEELS = "--python-version 3.13 --only-binary=:all: --platform manylinux2014_x86_64"
#: The recipe's package needs the publisher's, which the image has not.
JOIN = "ln -s $(python3 -c 'import composeapps as c; print(c.__path__[0])')/* lib/composeapps"
TAKE = "import urllib.request as u; u.urlretrieve('{url}/ptest.tar', '/tmp/ptest.tar')"
pytestmark = [
    pytest.mark.skipif(
        not yoctodevice.ASKED, reason="asked of bitbake's image: make yocto, then IMAGE=yocto"
    ),
    pytest.mark.skipif(
        yoctodevice.ASKED and not (LIBRARY / "oeqa").is_dir(),
        reason=f"{LIBRARY} has no oeqa: make yocto brings it",
    ),
]


class Target:
    """What a case asks: commands of the device, and an address that nobody has to ping."""

    ip, server_ip, runner = "127.0.0.1", "127.0.0.1", None

    def __init__(self, device: Device) -> None:
        self._machine = device.machine

    def run(self, command: str, timeout: float = 300, **_: object) -> tuple[int, str]:
        """Run a command of a shell; return its exit code and what it printed."""
        done = self._machine.run("sh", "-c", f"exec 2>&1; {command}", check=False, timeout=timeout)
        return done.code, done.out.strip()


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let oeqa be found, and its case, which is named as the agent's package is."""
    monkeypatch.setattr(sys, "path", [str(LIBRARY), *sys.path])
    for name in [name for name in sys.modules if name.split(".")[0] == "composeapps"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("cases")
def test_the_layers_testimage_case(device: Device) -> None:
    device.boot()
    assert device.judge(["v1"]).broken == []
    found = run(device)
    assert len(found) == 4 and set(found.values()) == {"PASSED"}, found


@pytest.mark.usefixtures("cases")
def test_the_case_fails_where_the_agent_does_not_run(device: Device) -> None:
    device.machine.run("systemctl", "stop", "composeapps.service")
    found = run(device)
    assert found["test_units_are_active"] == "FAILED", found


def run(device: Device) -> dict[str, str]:
    """Run the case, and those that it waits for; return how its tests ended."""
    from oeqa.runtime.context import OERuntimeTestContext  # type: ignore[import-not-found]

    manifest = (yoctodevice.directory() / "manifest").read_text()
    packages = {line.split()[0] for line in manifest.splitlines()} | {"openssh-sshd"}
    log = logging.getLogger("oeqa")
    context = OERuntimeTestContext({"MLPREFIX": ""}, log, Target(device), packages, "")
    places = [str(LIBRARY / "oeqa/runtime/cases"), str(CASES)]
    context.loadTests(places, modules=["ping", "ssh", "composeapps"])
    result = context.runTests()
    found = {}
    for name, case in context._registry["cases"].items():
        status, said = result._getTestResultDetails(case)
        print(name, status, said or "")
        if name.startswith("composeapps."):
            found[name.rsplit(".", 1)[1]] = status
    return found


def code(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave byte code out."""
    return None if "__pycache__" in entry.name else entry


def test_ptest(device: Device, tmp_path: Path) -> None:
    """The plugin that prints results as ptest's runner wants them is the only thing left out."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path / "lib")]
    libraries = ["pytest", "hypothesis", "jsonschema"]
    subprocess.run([*command, *WHEELS.split(), *libraries], check=True)
    script = PTEST.read_text().replace("--automake", "-q -p no:warnings")
    (tmp_path / "run-ptest").write_text(script)
    with tarfile.open(device.world.site / "ptest.tar", "w") as archive:
        archive.add(tmp_path / "lib", "lib")
        archive.add(ROOT / "agent/composeapps/publish", "lib/composeapps/publish", filter=code)
        archive.add(tmp_path / "run-ptest", "run-ptest")
        for name, place in PTEST_FILES.items():
            archive.add(ROOT / name, place, filter=code)
    machine = device.machine
    machine.run("python3", "-c", TAKE.format(url=vmworld.URL))
    where = (
        f"mkdir /tmp/ptest && cd /tmp/ptest && tar -xf ../ptest.tar && rm ../ptest.tar && {JOIN}"
    )
    run = "PYTHONPATH=/tmp/ptest/lib PYTHONDONTWRITEBYTECODE=1 sh run-ptest 2>&1"
    done = machine.run("sh", "-c", f"{where} && {run}", check=False, timeout=3600)
    print(done.out[-3000:])
    assert done.code == 0
