"""Images that cannot run apps: each says why in one sentence, and an update mends it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rig import Rig

from testbed import Testbed


@pytest.fixture(scope="module")
def rig(testbed: Testbed) -> Rig:
    """Return a device with no release."""
    return Rig(testbed)


def boot(rig: Rig, factory: Path | None) -> None:
    rig.boot(factory)
    rig.run("mount")
    rig.bed.engine("start")


def test_an_image_without_a_store(rig: Rig) -> None:
    boot(rig, None)
    assert "run composeapps update, or preload one" in rig.json("start", code=6)["error"]
    assert rig.json("status")["apps"] == {}


def test_an_image_whose_release_has_no_apps(rig: Rig) -> None:
    rig.world.release({})
    boot(rig, rig.preload("none"))
    assert "no apps" in rig.run("start")
    assert rig.version() == 1


def test_an_app_that_is_not_made_for_this_machine(rig: Rig) -> None:
    rig.world.release({"a": rig.world.ticker(2)})
    factory = rig.preload("other")
    rig.configure('[device]\nplatform = "linux/arm64"\n')
    boot(rig, factory)
    assert (
        "has nothing for linux/arm64; it has linux/amd64"
        in rig.bed.run("composeapps", "start", check=False).stderr
    )
    assert rig.version() == 1, "what ran before still does"
    assert "has nothing for linux/arm64" in rig.json("status")["failed"][0]["reason"]
    assert [item["kind"] for item in rig.json("verify", code=6)] == ["release"]
    rig.configure()
    rig.run("retry")
    rig.run("update")
    assert rig.version() == 2
    assert rig.json("verify", "--deep") == []
