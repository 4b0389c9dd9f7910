"""The layer's case for ``testimage``, run by openembedded-core's own runner on the booted image.

The way in is the tests' channel, not SSH, which the image does not have: that its package is
installed is pretended, so that cases that wait for SSH run.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import yoctodevice
from vmdevice import Device

LIBRARY = yoctodevice.DIRECTORY / "lib"
CASES = Path(__file__).resolve().parents[2] / "meta-composeapps/lib/oeqa/runtime/cases"
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
    device.boot(network=False)
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
    return {
        name.rsplit(".", 1)[1]: result._getTestResultDetails(case)[0]
        for name, case in context._registry["cases"].items()
        if name.startswith("composeapps.")
    }
