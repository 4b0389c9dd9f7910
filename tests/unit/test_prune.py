"""What is removed and what is kept when a device makes room."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pruneworld import World

from composeapps import mounts, prune, update, verbs
from composeapps.device import Device
from composeapps.errors import EngineError, SpaceError
from composeapps.oci import digest_of, hex_of
from composeapps.plan import make_plan


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = World(tmp_path, monkeypatch)
    with made.device.writer("test"):
        yield made


def test_what_is_kept_stays_whole_and_the_rest_goes(world: World) -> None:
    base = [b"base", b"common"]
    old = world.release({"web": world.app({"web": [*base, b"v1"]})})
    old_paths = world.commit(old)
    previous = world.release({"web": world.app({"web": [*base, b"v2"]})})
    previous_paths = world.commit(previous)
    current = world.release({"web": world.app({"web": [*base, b"v3"], "db": [b"base", b"db"]})})
    current_paths = world.commit(current)
    before = world.snapshot()
    gone = old_paths[-1]
    freed = prune.prune(world.device)
    assert not gone.exists()
    kept = {*previous_paths, *current_paths}
    assert all(path.is_file() for path in kept)
    assert {p for p in old_paths if p in kept} == set(old_paths[:2]), "what is shared stays"
    removed = before - world.snapshot()
    assert freed >= len(f"sealed {digest_of(b'v1')}")
    assert world.device.state.release(old) is None
    assert any(name.startswith("apps/web-") for name in removed)
    for digest in (current, previous):
        make_plan(world.device, digest, online=False)
    assert prune.prune(world.device) == 0
    assert world.snapshot() == before - removed


def test_nothing_is_removed_while_a_kept_release_is_damaged(world: World) -> None:
    first = world.release({"web": world.app({"web": [b"v1"]})})
    world.commit(first)
    for note in ("2", "3"):
        world.commit(world.release({"web": world.app({"web": [b"v" + note.encode()]})}))
    plan = make_plan(world.device, world.device.state.previous, online=False)
    image = plan.apps[0].images[0]
    world.device.stores.data.blob_path(image.documents[0].digest).unlink()
    before = world.snapshot()
    assert prune.prune(world.device) == 0
    assert world.snapshot() == before


def test_nothing_is_removed_while_a_kept_release_cannot_be_read(world: World) -> None:
    """Another image's Compose reads it again; this one must not make every update fail."""
    for note in ("1", "old", "3"):
        world.commit(world.release({"web": world.app({"web": [b"v" + note.encode()]}, note)}))
    world.refuse("old")
    before = world.snapshot()
    assert prune.prune(world.device) == 0
    assert world.snapshot() == before
    world.refuse("nothing")
    assert prune.prune(world.device) > 0


def test_a_release_of_the_image_that_cannot_be_read_keeps_nothing(world: World) -> None:
    """What it needs is in the image."""
    release = world.release({"web": world.app({"web": [b"v0"]}, "old")})
    world.store_documents()
    shutil.copytree(world.store, world.device.settings.paths.factory)
    (world.device.settings.paths.factory / "release.json").write_bytes(world.blobs[release])
    assert world.device.factory_digest == release
    for note in ("1", "2", "3"):
        world.commit(world.release({"web": world.app({"web": [b"v" + note.encode()]}, note)}))
    world.refuse("old")
    assert prune.prune(world.device) > 0
    assert len(list(world.device.stores.data.all_layers())) == 2


def test_a_release_that_is_fetched_is_kept_and_one_that_it_replaced_is_not(world: World) -> None:
    world.commit(world.release({"web": world.app({"web": [b"v1"]})}))
    replaced = world.release({"web": world.app({"web": [b"v2"]})})
    (replaced_path,) = world.seal(replaced)
    world.bring(replaced, "fetching", "fetched")
    target = world.release({"web": world.app({"web": [b"v3"]})})
    (target_path,) = world.seal(target)
    world.bring(target, "fetching", "fetched")
    world.device.state.put("target", target)
    assert prune.prune(world.device) > 0
    assert target_path.exists()
    assert not replaced_path.exists()
    assert world.device.state.release(replaced) is None


def test_what_was_begun_of_a_release_is_kept_and_room_is_made_for_the_rest(world: World) -> None:
    world.commit(world.release({"web": world.app({"web": [b"v1"]})}))
    abandoned = world.release({"web": world.app({"web": [b"v2"]})})
    (abandoned_path,) = world.seal(abandoned)
    world.bring(abandoned, "fetching")
    target = world.release({"web": world.app({"web": [b"v3", b"more"]})})
    first, second = world.seal(target)
    second.unlink()
    world.bring(target, "fetching")
    world.device.state.put("target", target)
    plan = make_plan(world.device, target, online=False)
    download = plan.apps[0].images[0].layers[1].descriptor.digest
    names = [f"{hex_of(download)}.part", hex_of(download), "f" * 64, f"{'f' * 64}.part"]
    for name in names:
        (world.device.ingest / name).write_bytes(b"1234")
    freed = prune.prune(world.device)
    assert first.exists()
    assert not abandoned_path.exists()
    assert sorted(path.name for path in world.device.ingest.iterdir()) == sorted(names[:2])
    assert freed >= 8


def test_a_release_of_which_nothing_is_there_yet_is_no_reason_to_keep_anything(
    world: World,
) -> None:
    (current,) = world.commit(world.release({"web": world.app({"web": [b"v1"]})}))
    abandoned = world.release({"web": world.app({"web": [b"v2"]})})
    (abandoned_path,) = world.seal(abandoned)
    world.bring(abandoned, "fetching")
    target = world.release({"web": world.app({"web": [b"v3"]})})
    world.device.state.put("target", target)
    assert prune.prune(world.device) > 0
    assert current.exists()
    assert not abandoned_path.exists()
    record = world.device.state.release(target)
    assert record is not None
    assert record.state == "pending"


@pytest.mark.parametrize("leftover", [True, False])
def test_no_room_for_a_release_is_made_once(
    world: World, monkeypatch: pytest.MonkeyPatch, leftover: bool
) -> None:
    world.commit(world.release({"web": world.app({"web": [b"v1"]})}))
    if leftover:
        world.seal(world.release({"web": world.app({"web": [b"v2"]})}))
    tried = []

    def full(device: Device, digest: str, progress: object) -> None:
        tried.append(digest)
        if len(tried) == 1 or not leftover:
            raise SpaceError("no room")

    monkeypatch.setattr(update, "fetch_release", full)
    if leftover:
        verbs._fetch(world.device, "x")
    else:
        with pytest.raises(SpaceError):
            verbs._fetch(world.device, "x")
    assert tried == ["x"] * (2 if leftover else 1)


@pytest.mark.parametrize("state", ["installing", "starting", "rolling-back"])
def test_a_release_under_way_is_kept(world: World, state: str) -> None:
    world.commit(world.release({"web": world.app({"web": [b"v1"]})}))
    target = world.release({"web": world.app({"web": [b"v2"]})})
    (path,) = world.seal(target)
    world.bring(target, "fetching", "fetched", "installing")
    if state != "installing":
        world.bring(target, state)
    prune.prune(world.device)
    assert path.exists()


def test_failed_releases_are_remembered_and_their_layers_are_not(world: World) -> None:
    world.commit(world.release({"web": world.app({"web": [b"v0"]})}))
    failed = []
    for number in range(prune.REMEMBERED + 3):
        digest = world.release({"web": world.app({"web": [b"f%d" % number]})})
        (path,) = world.seal(digest)
        world.bring(digest, "failed")
        failed.append((digest, path))
    prune.prune(world.device)
    assert not any(path.exists() for _, path in failed)
    known = [world.device.state.release(digest) is not None for digest, _ in failed]
    assert known == [False] * 3 + [True] * prune.REMEMBERED
    newest = failed[-1][0]
    assert world.device.stores.find_blob(newest) is not None, "it says which apps there were"


def test_engine_snapshots_of_what_is_gone_are_left_to_the_engine(world: World) -> None:
    old = world.release({"web": world.app({"web": [b"base", b"v1"]})})
    world.commit(old)
    gone = list(make_plan(world.device, old, online=False).chains)[1]
    for note in (b"v2", b"v3"):
        world.commit(world.release({"web": world.app({"web": [b"base", note]})}))
    kept = list(make_plan(world.device, world.device.state.current, online=False).chains)
    for chain_id in (gone, *kept):
        world.device.state.set_snapshot(chain_id, Path("/fs"))
    (world.root / "snapshots").write_text(f"{gone} {kept[0]} Committed\n{kept[0]} Committed\n")
    prune.prune(world.device)
    assert set(world.device.state.snapshots()) == set(kept)
    asked = (world.root / "asked").read_text()
    assert f"label {gone} " in asked
    assert not any(f"label {chain_id} " in asked for chain_id in kept)


def test_a_run_that_was_killed_leaves_no_engine_snapshot_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.commit(world.release({"web": world.app({"web": [b"v1"]})}))
    world.device.state.set_snapshot("sha256:gone", Path("/fs"))
    (world.root / "snapshots").write_text("sha256:gone Committed\n")
    with monkeypatch.context() as killed:
        killed.setattr(world.device.snapshots, "_ctr", _killed)
        with pytest.raises(KeyboardInterrupt):
            prune.prune(world.device)
    # Whatever needs it again has to protect it from the engine's collector anew.
    assert world.device.state.snapshots() == {}
    prune.prune(world.device)
    assert "label sha256:gone " in (world.root / "asked").read_text()
    assert world.device.state.left_snapshots() == []


def _killed(*_: str) -> str:
    raise KeyboardInterrupt


def test_an_image_that_is_gone_is_forgotten_only_after_the_engine_forgot_it(world: World) -> None:
    for note in (b"v1", b"v2", b"v3"):
        world.commit(world.release({"web": world.app({"web": [note]})}))
    world.device.state.note_image("r.test/old@sha256:x")
    before = world.snapshot()
    with pytest.raises(EngineError, match="Docker"):
        prune.prune(world.device)
    assert world.device.state.images() == {"r.test/old@sha256:x"}
    assert world.snapshot() == before, "nothing goes while the engine may still need it"


def test_nothing_is_removed_beside_a_newer_agents_state(world: World) -> None:
    """It names releases that are not known here."""
    for note in (b"v1", b"v2", b"v3"):
        world.commit(world.release({"web": world.app({"web": [note]})}))
    state = world.device.state
    state.path = state.path.with_name("state-1.db")
    before = world.snapshot()
    assert prune.prune(world.device) == 0
    assert world.snapshot() == before


def test_only_what_kept_releases_need_stays_mounted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = world.commit(world.release({"web": world.app({"web": [b"v1"]})}))
    gone: list[str] = []
    monkeypatch.setattr(mounts, "unmount", lambda target: gone.append(target.name))
    for name in (path.stem, "left"):
        (world.device.layers / name).mkdir(parents=True)
    prune.prune(world.device)
    assert gone == ["left"]
