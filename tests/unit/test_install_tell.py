"""Telling the engine a release: the order that a crash may cut anywhere, and links put right.

Stores, state and plans are real; mounting and the engine are stand-ins that note what is done.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from powercut import PowerCutError
from pruneworld import World

from composeapps import install, mounts
from composeapps.errors import EngineError, IntegrityError, UnsupportedError
from composeapps.plan import make_plan
from composeapps.snapshots import ChainLink, Snapshot
from composeapps.store import SealedLayer


class Told:
    """A device with a committed release of two layers, and an engine that knows nothing."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World(root, monkeypatch)
        self.device = self.world.device
        with self.device.writer("test"):
            self.world.commit(self.world.release({"app": self.world.app({"web": [b"a", b"b"]})}))
        self.plan = make_plan(self.device, self.device.state.current, online=False)
        self.did: list[str] = []
        self.tree: dict[str, Snapshot] = {}
        self.paths: dict[str, Path] = {}
        self.images: set[str] = set()
        self.bad: set[Path] = set()
        self.cut = ""
        self.device.__dict__["engine"] = SimpleNamespace(
            has_image=lambda name: name in self.images,
            load=self._load,
            remove_container=lambda key: self.note(f"remove {key}"),
        )
        self.device.__dict__["snapshots"] = SimpleNamespace(
            tree=lambda: dict(self.tree),
            make=self._make,
            keep=lambda chain_id: self.note("keep"),
            directories=lambda chain_id: list(self.paths.values())[::-1],
        )
        monkeypatch.setattr(mounts, "mount_layer", self._mount)
        monkeypatch.setattr(mounts, "unmount", lambda target: None)

    def note(self, what: str) -> None:
        if self.cut == what:
            self.cut = ""
            raise PowerCutError
        self.did.append(what)

    def _mount(self, layer: SealedLayer, directory: Path, way: str) -> Path:
        if layer.path in self.bad:
            raise IntegrityError("no file system")
        self.note("mount")
        return directory / layer.name

    def _make(self, link: ChainLink, known: Any) -> Path:
        self.note("make")
        path = self.world.root / "engine" / str(len(self.paths)) / "fs"
        path.parent.mkdir(parents=True)
        path.symlink_to(link.target)
        self.paths[link.chain_id] = path
        self.tree[link.chain_id] = Snapshot(link.parent, committed=True)
        return path

    def _load(self, name: str, top: Any, documents: dict[str, bytes]) -> None:
        assert name in self.device.state.images(), "else nobody would ever remove it"
        self.note("load")
        self.images.add(name)

    def tell(self) -> None:
        install.tell(self.device, self.plan)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(tmp_path, monkeypatch)


def test_layers_are_mounted_then_linked_then_the_image_is_loaded(told: Told) -> None:
    told.tell()
    assert told.did == ["mount", "mount", "make", "make", "load"]
    assert told.device.state.snapshots() == told.paths
    told.did.clear()
    told.tell()
    assert told.did == ["mount", "mount"], "the engine knows it"


@pytest.mark.parametrize("cut", ["mount", "make", "load"])
def test_after_a_cut_it_is_all_done_again(told: Told, cut: str) -> None:
    told.cut = cut
    with pytest.raises(PowerCutError):
        told.tell()
    told.tell()
    assert told.device.state.snapshots() == told.paths
    assert told.images == told.device.state.images()


def test_a_chain_that_nothing_is_remembered_of_is_found_and_kept_from_the_collector(
    told: Told,
) -> None:
    """The state was lost, or the power went between the commit and the note of it."""
    told.tell()
    told.device.state.forget_snapshots()
    told.did.clear()
    told.tell()
    assert told.did == ["mount", "mount", "keep", "keep"]
    assert told.device.state.snapshots() == told.paths


@pytest.mark.parametrize("damage", ["missing", "wrong", "directory", "gone"])
def test_a_wrong_link_is_put_right_and_what_stands_on_it_is_made_anew(
    told: Told, damage: str
) -> None:
    told.tell()
    first, second = told.paths
    told.tree["c1-init"] = Snapshot(second, committed=True)
    told.tree["c1"] = Snapshot("c1-init", committed=False)
    link = told.paths[first]
    wanted = link.readlink()
    link.unlink()
    if damage == "wrong":
        link.symlink_to("/elsewhere")
    elif damage == "directory":
        link.mkdir()
        (link / "intruder").write_text("x")
    elif damage == "gone":
        shutil.rmtree(link.parent)
    told.did.clear()
    told.tell()
    assert link.readlink() == wanted
    assert told.did == ["mount", "mount", "remove c1", "remove c1"], "by both of its snapshots"


def test_a_layer_that_cannot_be_mounted_gives_way_to_its_twin_and_is_reported(told: Told) -> None:
    shutil.copytree(told.world.store, told.device.settings.paths.factory)
    layers = [layer.path for layer in told.device.stores.factory.all_layers()]
    for path in layers:
        path.unlink()  # with fs-verity it cannot be written
        path.write_bytes(b"garbage")
    told.bad = set(layers)
    told.tell()
    assert told.device.stores.distrusted == {str(path) for path in layers}
    kinds = [event.kind for event in told.device.state.events()]
    assert kinds == ["committed", "damaged-layer", "damaged-layer"]


def test_a_sound_layer_that_this_kernel_cannot_mount_is_kept(told: Told) -> None:
    data = [layer.path for layer in told.device.stores.data.all_layers()]
    told.bad = set(data)
    with pytest.raises((IntegrityError, UnsupportedError)):
        told.tell()
    assert all(path.exists() for path in data)


@pytest.mark.parametrize("refuses", [False, True])
def test_an_image_is_forgotten_with_its_documents(told: Told, refuses: bool) -> None:
    """Another name may hold them in the engine, and a damaged one counts as present there."""

    def remove_image(name: str) -> None:
        if refuses:
            raise EngineError("cannot read it")

    snapshots: Any = told.device.snapshots
    told.device.engine.remove_image = remove_image  # type: ignore[method-assign]
    snapshots.remove_image = lambda name: told.note(f"forget {name}")
    snapshots.remove_content = lambda digests: told.did.extend(digests)
    (image,) = told.plan.apps[0].images
    install.forget_image(told.device, image)
    documents = [item.digest for item in image.documents]
    assert len(documents) >= 2
    assert told.did == [f"forget {install.image_name(image)}", *documents]


def test_an_image_that_cannot_be_read_is_told_anew_once(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has_image(name: str) -> bool:
        raise EngineError("unexpected EOF")

    monkeypatch.setattr(install, "forget_image", lambda device, image: told.note("forget"))
    told.device.engine.has_image = has_image  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="unexpected EOF"):
        install.tell(told.device, told.plan)
    assert told.did.count("forget") == 1


def test_an_image_that_is_taken_and_not_known_is_told_twice(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "forget_image", lambda device, image: told.note("forget"))
    told.device.engine.has_image = lambda name: False  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="though it has taken it"):
        install.tell(told.device, told.plan)
    assert len([what for what in told.did if what.startswith("load")]) == 2
