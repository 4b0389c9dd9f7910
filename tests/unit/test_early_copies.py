"""Which copy of a layer is mounted before the engine starts; mounting itself is a stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest

from composeapps import config, early, mounts
from composeapps.device import Device
from composeapps.errors import IntegrityError
from composeapps.oci import digest_of
from composeapps.store import SealedLayer, Store

GOOD = b"good"


@pytest.fixture
def device(tmp_path: Path) -> Device:
    paths = {name: str(tmp_path / name) for name in ("data", "run", "factory")}
    engine = {"containerd_root": str(tmp_path / "containerd")}
    device = Device(config.parse({"paths": paths, "engine": engine}, "test"))
    for store in device.stores.all:
        store.create()
    return device


def put(store: Store, diff: str) -> SealedLayer:
    file = store.root / "new"
    file.write_bytes(GOOD)
    return store.adopt_layer(file, digest_of(diff.encode()), "", digest_of(GOOD))


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the files that are mounted; those whose bytes are wrong cannot be."""
    found: list[Path] = []

    def mount(layer: SealedLayer, directory: Path, way: str) -> Path:
        if layer.path.read_bytes() != GOOD:
            raise IntegrityError("no file system")
        found.append(layer.path)
        return directory / layer.name

    monkeypatch.setattr(mounts, "mount_layer", mount)
    return found


def test_a_copy_that_was_found_damaged_is_not_mounted(device: Device, mounted: list[Path]) -> None:
    """It may mount well and still serve a wrong byte; its twin takes its place."""
    factory, data = (put(store, "one") for store in device.stores.all)
    other = put(device.stores.factory, "two")
    device.state.put("distrusted", str(factory.path))
    assert early.mount(device) == sorted([factory.name, other.name])
    assert set(mounted) == {data.path, other.path}
    data.path.unlink()
    mounted.clear()
    with pytest.raises(IntegrityError, match="in no local store, or damaged there"):
        early.mount(device)
    assert mounted == [other.path], "one that fails keeps no other from being mounted"


def test_what_containers_stand_on_is_mounted_and_the_images_own(
    device: Device, mounted: list[Path], tmp_path: Path
) -> None:
    stands_on, factory = put(device.stores.data, "one"), put(device.stores.factory, "two")
    put(device.stores.data, "not linked")
    place = tmp_path / "containerd" / "io.containerd.snapshotter.v1.overlayfs" / "snapshots"
    for number, target in enumerate([device.layers / stands_on.name, Path("/elsewhere/x")]):
        (place / str(number)).mkdir(parents=True)
        (place / str(number) / "fs").symlink_to(target)
    early.mount(device)
    assert mounted == [stands_on.path, factory.path]


def test_a_state_that_cannot_be_read_names_nothing_damaged(
    device: Device, mounted: list[Path]
) -> None:
    layer = put(device.stores.factory, "one")
    (device.data / "state.db").write_bytes(b"garbage" * 1000)
    early.mount(device)
    assert mounted == [layer.path]
