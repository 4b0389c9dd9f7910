"""A full data partition: what runs goes on running and comes up again; an update says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rig import Rig

from testbed import Testbed

FILL = """
rm -f /var/lib/composeapps/fill*
size=$(df --output=avail -B4096 /var/lib/composeapps | tail -1)
fallocate -l $((size * 4096 - 1048576)) /var/lib/composeapps/fill
cat /dev/zero >/var/lib/composeapps/fill2
sync
cat /dev/zero >>/var/lib/composeapps/fill2
"""


@pytest.fixture(scope="module")
def rig(testbed: Testbed) -> Rig:
    """Return a device on its first release."""
    rig = Rig(testbed)
    rig.update({"a": rig.world.ticker(1)})
    return rig


@pytest.fixture(autouse=True)
def _full(rig: Rig) -> Iterator[None]:
    rig.bed.run("sh", "-c", FILL, check=False)
    yield
    rig.bed.run("sh", "-c", "rm -f /var/lib/composeapps/fill*")


def test_what_runs_goes_on(rig: Rig) -> None:
    rig.run("start")
    assert rig.json("status")["apps"]["a"]["state"] == "healthy"


def test_an_update_says_that_there_is_no_room(rig: Rig) -> None:
    version = rig.version()
    rig.world.release({"a": rig.world.ticker(2)})
    said = rig.json("update", code=7)
    assert "room" in said["error"] or "bytes" in said["error"]
    assert rig.version() == version
    assert rig.json("status")["apps"]["a"]["state"] == "healthy"


def test_booting_says_so_and_is_well_when_there_is_room_again(rig: Rig) -> None:
    """Without one free byte dockerd itself may hang at its start."""
    rig.bed.reboot()
    rig.run("mount")
    assert rig.mounted() > 0
    rig.bed.run("/run/testbed-engine", "start", check=False)
    done = rig.bed.run("composeapps", "start", check=False)
    assert done.returncode == 0 or (done.returncode == 7 and "free space" in done.stderr)
    rig.bed.run("sh", "-c", "rm -f /var/lib/composeapps/fill*")
    rig.run("start")
    assert rig.json("status")["apps"]["a"]["state"] == "healthy"
    assert rig.log()[0] == "v1"
    rig.run("update")
    assert rig.version() == 2
    assert rig.json("verify", "--deep") == []
