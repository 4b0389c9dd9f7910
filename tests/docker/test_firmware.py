"""Root images with other factory stores: the newest release wins, nothing of the old is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rig import LAYERS, STORE, Rig
from world import TICKER, base_layer, noise_layer

from testbed import Testbed

OLD = "/run/work/one"


@pytest.fixture(scope="module")
def rig(testbed: Testbed) -> Rig:
    """Return a device with no release; its site has none either."""
    return Rig(testbed)


@pytest.fixture(scope="module")
def factories(rig: Rig) -> dict[int, Path]:
    """Return factory stores of releases 1 and 2, which share no top layer."""
    found: dict[int, Path] = {}
    for number in (1, 2):
        version = rig.world.release({"a": app(rig, number, "ab"[number - 1])})
        assert version == number
        found[number] = rig.preload(("one", "two")[number - 1])
    return found


def app(rig: Rig, number: int, bottom: str) -> str:
    """Store an app whose image stands on one of two bottom layers."""
    layers = [noise_layer(ord(bottom), 50_000), base_layer(), noise_layer(number, 50_000)]
    image = rig.world.image("ticker", layers, {})
    return rig.world.app(TICKER.format(image=image, mark=f"v{number}"))


def start(rig: Rig, factory: Path | None) -> None:
    """Boot an image with this factory store to its apps, without the network."""
    rig.boot(factory)
    rig.bed.run("composeapps", "mount", check=False)
    rig.bed.engine("start")
    with rig.offline():
        rig.run("start")
        status = rig.json("status")
    assert status["apps"]["a"]["state"] == "healthy"
    # The previous release may lack what its image had: an update with a network brings that.
    found = rig.bed.run("composeapps", "verify", "--deep", "--json", check=False).stdout
    assert {item["kind"] for item in json.loads(found)} <= {"layer"}


def runs(rig: Rig) -> str:
    """Return the mark of the release that was started last."""
    return rig.log()[-1]


def test_a_newer_image_brings_its_release(rig: Rig, factories: dict[int, Path]) -> None:
    start(rig, factories[1])
    assert (rig.version(), runs(rig)) == (1, "v1")
    start(rig, factories[2])
    assert (rig.version(), runs(rig)) == (2, "v2")
    assert rig.layer_files() == [], "both ran from the image"


def test_back_on_the_older_image_what_it_has_stands_in(
    rig: Rig, factories: dict[int, Path]
) -> None:
    """Nobody kept release 2, and no other slot can be looked into."""
    start_damaged(rig, factories[1])
    assert rig.json("status")["stand_in"]
    assert runs(rig) == "v1"
    start(rig, factories[2])
    assert (rig.version(), runs(rig)) == (2, "v2")
    assert rig.json("status")["stand_in"] is None


def start_damaged(rig: Rig, factory: Path) -> None:
    rig.boot(factory)
    rig.run("mount", code=6)  # the links of release 2 lead to what is gone
    rig.bed.engine("start")
    rig.run("start")


def test_what_was_kept_runs_on_an_older_image(rig: Rig, factories: dict[int, Path]) -> None:
    kept = rig.json("keep")
    assert kept["files"] > 0
    assert rig.json("keep")["files"] == 0
    assert rig.json("prune") == {"freed": 0}
    start(rig, factories[1])
    assert (rig.version(), runs(rig)) == (2, "v2")
    assert rig.json("status")["stand_in"] is None
    # Nothing of the old image is used: the file behind each mount is the data store's or the new's.
    names = {path.stem for path in rig.layer_files()}
    names |= {path.stem for path in (factories[1] / "layers").iterdir()}
    lines = rig.bed.run("ls", LAYERS).stdout.split()
    assert set(lines) <= names


def test_a_release_from_the_network_that_shares_layers_with_the_image(
    rig: Rig, factories: dict[int, Path]
) -> None:
    """Its layers are half in the image; the next image has none of them."""
    start(rig, factories[2])
    rig.update({"a": app(rig, 3, "b")})
    assert len(rig.layer_files()) == 1, "the rest is the image's, and what was kept is not needed"
    rig.run("keep")
    start(rig, factories[1])
    assert (rig.version(), runs(rig)) == (3, "v3")
    assert rig.json("status")["stand_in"] is None


def test_where_nobody_kept_it_the_other_slot_is_looked_into(
    rig: Rig, factories: dict[int, Path]
) -> None:
    start(rig, factories[2])
    rig.run("prune")
    assert len(rig.layer_files()) == 1
    rig.configure('[paths]\nother_factories = ["/run/work/o*", "/run/work/t*"]\n')
    start(rig, factories[1])
    assert (rig.version(), runs(rig)) == (3, "v3")
    assert rig.json("status")["stand_in"] is None
    assert len(rig.layer_files()) == 2, "the base is in both images, the bottom in the old one"
    rig.configure()
    start(rig, factories[1])  # the other slot is not there any more
    assert runs(rig) == "v3"
    assert rig.bed.run("grep", "-r", "/run/work/t", f"{STORE}/..", check=False).stdout == ""


def test_an_image_without_a_store(rig: Rig) -> None:
    """Release 3 has its base in the image that went."""
    rig.boot(None)
    rig.run("mount", code=6)
    rig.bed.engine("start")
    rig.run("start", code=6)
    rig.run("update")
    assert rig.json("verify", "--deep") == []


def test_a_newer_release_of_the_image_that_does_not_run_is_rolled_back(
    rig: Rig, factories: dict[int, Path]
) -> None:
    del factories
    bad = TICKER.replace("trap exit TERM;", "exit 3;")
    image = rig.world.image("ticker", [base_layer(), noise_layer(4, 50_000)], {})
    rig.world.release({"a": rig.world.app(bad.format(image=image, mark="v4"))})
    factory = rig.preload("four")
    rig.boot(factory)
    rig.run("mount")
    rig.bed.engine("start")
    with rig.offline():
        rig.run("start")
    assert (rig.version(), runs(rig)) == (3, "v3")
    assert rig.json("status")["failed"][0]["version"] == 4
    with rig.offline():
        rig.run("start")
    assert rig.version() == 3, "it is not tried again"


def test_an_older_agent_runs_what_a_newer_one_committed(rig: Rig) -> None:
    """Its state is not touched; when the newer agent is back it finds it as it was."""
    state = rig.bed.path("/var/lib/composeapps/state.db")
    mine = state.read_bytes()
    alter = "ALTER TABLE release ADD COLUMN more TEXT; PRAGMA user_version=9"
    change = (
        f"import sqlite3; sqlite3.connect('/var/lib/composeapps/state.db').executescript('{alter}')"
    )
    rig.bed.python(change)
    newer = state.read_bytes()
    files = {path.name for path in rig.layer_files()}
    rig.bed.reboot()
    rig.run("mount")
    rig.bed.engine("start")
    with rig.offline():
        rig.run("start")
        assert (rig.version(), runs(rig)) == (3, "v3")
    version = rig.world.release({"a": app(rig, 5, "b")})
    rig.run("update")
    assert rig.version() == version
    assert files <= {path.name for path in rig.layer_files()}, (
        "what the newer agent may need is not pruned"
    )
    state = rig.bed.path("/var/lib/composeapps/state.db")
    assert state.read_bytes() == newer
    state.write_bytes(mine)
    with rig.offline():
        rig.run("start")
    assert (rig.version(), runs(rig)) == (3, "v3")
