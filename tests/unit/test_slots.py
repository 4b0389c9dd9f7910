"""Keeping what only an image's factory store has, and taking what only another slot's has.

Stores, state, artifacts and plans are real; ``docker-compose`` and ``ctr`` stand in as they do in
``test_prune``.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from pruneworld import World

from composeapps import config, copies, fetch, install, keep, prune, slots
from composeapps.device import Device
from composeapps.errors import ConfigError, IntegrityError, SpaceError
from composeapps.plan import make_plan
from composeapps.store import Store


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a device whose committed release lies in the factory store only."""
    world = World(tmp_path, monkeypatch)
    with world.device.writer("test"):
        digest = world.release({"web": world.app({"one": [b"base", b"top"]})})
        world.commit(digest)
    shutil.rmtree(tmp_path / "factory", ignore_errors=True)
    shutil.copytree(world.store, tmp_path / "factory")
    for path in [*world.store.glob("layers/*"), *world.store.glob("blobs/sha256/*")]:
        path.unlink()
    return world


def files(store: Store) -> set[str]:
    """Return what a store holds, unfinished work too."""
    return {path.name for path in store.root.rglob("*") if path.is_file()}


def elsewhere(world: World) -> Device:
    """Return the same device on an image with no factory store; the old one is in a slot."""
    (world.root / "factory").rename(world.root / "slot-b")
    settings = world.device.settings
    patterns = [f"{world.root}/slot-*", f"{world.root}/nowhere-*"]
    paths = {
        name: str(getattr(settings.paths, name)) for name in ("data", "run", "factory", "root")
    }
    values = {
        "paths": {**paths, "other_factories": patterns},
        "engine": {"docker": settings.engine.docker},
        "device": {"platform": "linux/amd64", "id": "test"},
    }
    return Device(config.parse(values, "test"))


def test_all_that_only_the_image_has_is_copied_once(world: World) -> None:
    device = world.device
    with device.writer("keep"):
        first = keep.keep(device)
        assert (first.releases, first.files) == (1, len(files(device.stores.factory)))
        assert files(device.stores.data) == files(device.stores.factory)
        assert first.bytes == sum(p.stat().st_size for p in world.store.rglob("*") if p.is_file())
        assert keep.keep(device) == keep.Kept(1, 0, 0)
        shutil.rmtree(world.root / "factory")
        plan = make_plan(device, device.state.current, online=False)
        assert fetch.missing(device, plan) == []


def test_a_previous_release_that_cannot_be_read_keeps_nobody_from_keeping(world: World) -> None:
    device = world.device
    with device.writer("keep"):
        previous = device.state.current
        world.commit(world.release({"web": world.app({"one": [b"base", b"next"]}, "new")}))
        world.refuse("")
        assert device.state.previous == previous
        assert keep.keep(device).releases == 1
        world.refuse("new")
        with pytest.raises(ConfigError, match="new is not supported"):
            keep.keep(device)


def test_a_damaged_file_of_the_image_is_not_copied(world: World) -> None:
    device = world.device
    path = next((world.root / "factory" / "layers").iterdir())
    path.write_bytes(b"garbage")
    with device.writer("keep"):
        with pytest.raises(IntegrityError, match="damaged"):
            keep.keep(device)
        assert path.name not in files(device.stores.data)
        assert not [name for name in files(device.stores.data) if name.startswith(".tmp-")]


def test_no_room_is_said_before_anything_is_copied(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "free_bytes", lambda path: 1000)
    with world.device.writer("keep"), pytest.raises(SpaceError, match="free space, or go on"):
        keep.keep(world.device)
    assert files(world.device.stores.data) == set()


def test_what_an_interrupted_run_left_goes_and_the_rest_is_copied(world: World) -> None:
    device = world.device
    with device.writer("keep"):
        keep.keep(device)
    layer = next((world.store / "layers").iterdir())
    half = layer.with_name(f".tmp-{layer.name}")
    layer.rename(half)
    half.write_bytes(half.read_bytes()[:3])
    with device.writer("keep"):
        assert keep.keep(device).files == 1
    assert files(device.stores.data) == files(device.stores.factory)


def test_without_a_release_there_is_nothing_to_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, monkeypatch)
    with world.device.writer("keep"), pytest.raises(ConfigError):
        keep.keep(world.device)


def test_pruning_spares_copies_in_this_boot_only(world: World) -> None:
    device = world.device
    with device.writer("keep"):
        keep.keep(device)
        assert prune.prune(device) == 0
        device.state.put(keep.KEPT, "another boot")
        assert prune.prune(device) > 0
        assert not list((world.store / "layers").iterdir())


def test_a_layer_is_taken_from_another_slot_verified(world: World) -> None:
    device = elsewhere(world)
    with device.writer("start"):
        plan = make_plan(device, device.state.current, online=False)
        for _, layer in plan.chains.values():
            sealed = install.sealed_layer(device, layer)
            assert sealed.path.is_relative_to(device.data)
        assert fetch.missing(device, plan) == []
        assert copies.restore(device, plan.blobs) == []
    shutil.rmtree(world.root / "slot-b")
    assert fetch.missing(device, make_plan(device, device.state.current, online=False)) == []


def test_what_is_damaged_in_the_other_slot_counts_as_missing(world: World) -> None:
    device = elsewhere(world)
    with device.writer("start"):
        plan = make_plan(device, device.state.current, online=False)
        for path in (world.root / "slot-b").rglob("*"):
            if path.is_file():
                path.write_bytes(b"garbage")
        with pytest.raises(IntegrityError, match="is in no local store"):
            install.sealed_layer(device, next(iter(plan.chains.values()))[1])
        assert not slots.take_blob(device, plan.digest)
    assert not list((world.store / "layers").iterdir())


def test_large_blobs_are_taken_too(world: World) -> None:
    """A project's files may be many; they are copied without being read into memory at once."""
    device = elsewhere(world)
    data = os.urandom(9 * 1024 * 1024)
    digest = Store(world.root / "slot-b").put_blob(data)
    with device.writer("start"):
        assert copies.restore(device, [digest]) == []
    assert device.stores.data.is_intact(digest)


def test_the_own_factory_store_is_no_other_slot(world: World) -> None:
    settings = {
        "paths": {"factory": f"{world.root}/factory", "other_factories": [f"{world.root}/f*"]}
    }
    assert list(slots.others(Device(config.parse(settings, "test")))) == []


def test_patterns_are_absolute() -> None:
    with pytest.raises(ConfigError, match="absolute"):
        config.parse({"paths": {"other_factories": ["slot-*"]}}, "test")
