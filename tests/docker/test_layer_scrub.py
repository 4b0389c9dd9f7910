"""A layer that the medium changed is found without anybody asking, dropped, and fetched again."""

from __future__ import annotations

import time

import pytest
from rig import Rig, on_second_release
from test_damage import _flip, _layer

from testbed import Testbed

SET = """
import sqlite3, sys
db = sqlite3.connect("/var/lib/composeapps/state.db")
db.execute("REPLACE INTO meta VALUES ('scrubbed', '1')")
db.commit()
"""


@pytest.fixture(scope="module")
def rig(testbed: Testbed) -> Rig:
    return on_second_release(testbed)


def test_a_whole_pass_finds_nothing_wrong(rig: Rig) -> None:
    rig.bed.python(SET)
    found = rig.json("verify", "--scrub")
    assert found["hashed"] + found["checked_by_kernel"] == 3
    status = rig.json("status")
    assert status["verified"] > 1
    assert bool(status["no_fs_verity"]) == (found["checked_by_kernel"] == 0)
    assert rig.json("verify", "--scrub")["hashed"] == 0


def test_damage_runs_down_the_ladder_and_is_fetched_again(rig: Rig) -> None:
    layer = _layer(rig, 2)
    _flip(layer)
    rig.bed.python(SET)
    with rig.offline():
        found = rig.json("verify", "--scrub", code=6)
        assert found["damaged"] == [f"/var/lib/composeapps/store/layers/{layer.name}"]
        status = rig.json("status")
        assert status["stand_in"]
        assert status["apps"]["a"]["state"] == "healthy"
    assert not layer.exists()
    rig.run("update")
    assert rig.json("status")["stand_in"] is None
    assert rig.json("verify", "--deep") == []


def test_an_unclean_shutdown_is_known(rig: Rig) -> None:
    for orderly in (True, False):
        rig.bed.engine("start")
        rig.run("start")
        rig.run("verify", "--scrub")
        layer = rig.layer_files()[0]
        layer.touch()  # as if this boot had written it
        if orderly:
            with rig.resident():
                while not rig.bed.run("pgrep", "-f", "cli run$", check=False).stdout:
                    time.sleep(0.1)
                time.sleep(1)  # until it handles signals
        rig.bed.reboot()
        rig.bed.engine("start")
        rig.run("start")
        assert (rig.json("verify", "--scrub")["hashed"] == 0) == orderly
        rig.bed.reboot()
