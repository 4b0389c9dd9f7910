"""What is removed and what is kept, what another release changes, and second copies of documents.

Stores, state, artifacts and plans are real; ``docker-compose`` and ``ctr`` are stand-ins: these
projects' files are their own canonical models, and the containerd that is asked holds what a
directory holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from blobs import LINUX, Blobs

from composeapps import config, copies, difference, prune, update, verbs
from composeapps.device import Device
from composeapps.errors import EngineError, SpaceError
from composeapps.oci import Reference, digest_of, hex_of
from composeapps.plan import make_plan
from composeapps.release import App, Release

COMPOSE = """#!/bin/sh
# A stand-in for Compose: prints the file that --file names.
while [ $# -gt 0 ]; do [ "$1" = --file ] && cat "$2"; shift; done
"""
CTR = """#!/bin/sh
# A stand-in for containerd: notes what it is asked, knows the contents of a directory.
shift 4
echo "$*" >> {root}/asked
case "$*" in
"snapshots --snapshotter overlayfs ls") echo "KEY PARENT KIND"; cat {root}/snapshots ;;
"content get "*) exec cat "{root}/content/$3" ;;
esac
"""


class World:
    """A device in a directory, and releases to put on it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        for name in ("bin", "content", "run"):
            (root / name).mkdir()
        (root / "snapshots").write_text("")
        for name, text in (("docker-compose", COMPOSE), ("ctr", CTR.format(root=root))):
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{root}/bin", prepend=":")
        paths = {name: str(root / name) for name in ("data", "run", "factory", "root")}
        engine = {"docker": f"unix://{root}/docker.sock"}
        device = {"platform": "linux/amd64", "id": "test"}
        self.device = Device(
            config.parse({"paths": paths, "engine": engine, "device": device}, "test")
        )
        self.blobs = Blobs()
        self.versions = 0

    @property
    def store(self) -> Path:
        return self.device.stores.data.root

    def app(self, layers: Mapping[str, list[bytes]], note: str = "") -> App:
        """Make an app: images by service, each of a few layers."""
        services = {}
        for name, parts in layers.items():
            descriptor = self.blobs.image(parts, LINUX)
            services[name] = {"image": f"r.test/{name}@{descriptor['digest']}"}
        model = {"services": services, "x-note": note}
        artifact = self.blobs.artifact([self.blobs.compose_file(json.dumps(model))])
        return App(f"r.test/app@{artifact['digest']}", {})

    def release(self, apps: Mapping[str, App], *, channel: str = "stable") -> str:
        """Make a release and note it as pending; nothing of it is stored."""
        self.versions += 1
        document = Release(channel, self.versions, dict(apps)).to_bytes()
        digest = digest_of(document)
        self.blobs[digest] = document
        self.device.state.add_release(digest, channel, self.versions, document)
        self.device.stores.data.put_blob(document)
        return digest

    def store_documents(self) -> None:
        """Store every document that was made, and no layer."""
        for data in self.blobs.values():
            if data[:2] != b"\x1f\x8b" and data != b"{}":
                self.device.stores.data.put_blob(data)

    def seal(self, digest: str) -> list[Path]:
        """Store all that a release needs, its layers as files that stand for sealed ones."""
        self.store_documents()
        paths = []
        for _, layer in make_plan(self.device, digest, online=False).chains.values():
            found = self.device.stores.find_layer(layer.diff_id, layer.chain_id)
            if found is None:
                data = f"sealed {layer.diff_id}".encode()
                file = self.store / "new"
                file.write_bytes(data)
                found = self.device.stores.data.adopt_layer(
                    file, layer.diff_id, "", digest_of(data)
                )
            paths.append(found.path)
        return paths

    def bring(self, digest: str, *states: str) -> None:
        for state in states:
            self.device.state.advance(digest, state)

    def commit(self, digest: str) -> list[Path]:
        """Make a release the current one, with all that it needs."""
        paths = self.seal(digest)
        self.bring(digest, "fetching", "fetched", "installing", "starting")
        self.device.state.commit(digest, "committed", {})
        return paths

    def snapshot(self) -> set[str]:
        """Return the names of all that the device holds."""
        found = self.device.data.rglob("*")
        return {str(path.relative_to(self.device.data)) for path in found if path.is_file()}


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


def test_what_the_factory_store_holds_too_is_not_held_twice(world: World) -> None:
    current = world.release({"web": world.app({"web": [b"v1"]})})
    (path,) = world.commit(current)
    factory = world.device.stores.factory
    factory.create()
    data = path.read_bytes()
    factory.layers.joinpath(path.name).write_bytes(data)
    assert prune.prune(world.device) == len(data)
    assert not path.exists()


def test_what_another_release_would_change(world: World) -> None:
    shared, other = world.app({"db": [b"base", b"db"]}), world.app({"mail": [b"base", b"mail"]})
    old = {"same": shared, "web": world.app({"web": [b"base", b"v1"]}), "gone": other}
    world.commit(world.release(old))
    new = {
        "same": shared,
        "web": world.app({"web": [b"base", b"v2"], "side": [b"base", b"db"]}),
        "more": world.app({"more": [b"base", b"more"]}),
    }
    digest = world.release(new)
    world.store_documents()
    value = difference.compare(world.device, digest)
    assert (value["version"], value["current"], value["layers"]) == (2, 1, 2)
    sizes = [len(data) for data in world.blobs.values() if data[:2] == b"\x1f\x8b"]
    assert value["download"] == sum(
        len(world.blobs[layer.descriptor.digest])
        for _, layer in make_plan(world.device, digest, online=False).chains.values()
        if world.device.stores.find_layer(layer.diff_id, layer.chain_id) is None
    )
    assert 0 < value["download"] < sum(sizes)
    assert value["apps"] == {
        "gone": "removed",
        "more": "added",
        "web": "changed, 2 of 2 images are new",
    }
    assert difference.text(value).splitlines() == [
        "release 2, this device runs 1",
        f"to download: {value['download']} bytes in 2 layers; "
        f"on flash: about {value['flash']} bytes",
        "app gone: removed",
        "app more: added",
        "app web: changed, 2 of 2 images are new",
    ]


def test_the_same_apps_in_a_new_release_change_nothing(world: World) -> None:
    apps = {"web": world.app({"web": [b"v1"]})}
    world.commit(world.release(apps))
    value = difference.compare(world.device, world.release(apps))
    assert (value["download"], value["layers"], value["apps"]) == (0, 0, {})
    assert difference.text(value).endswith("\nno app changes")


def test_on_an_empty_device_all_is_added(world: World) -> None:
    digest = world.release({"web": world.app({"web": [b"v1"]})})
    world.store_documents()
    value = difference.compare(world.device, digest)
    assert value["current"] is None
    assert value["apps"] == {"web": "added"}
    assert "this device runs none" in difference.text(value)


def damaged(path: Path) -> None:
    path.write_bytes(b"damaged")


def test_a_document_is_found_wherever_a_copy_is_intact(world: World) -> None:
    digest = world.release({"web": world.app({"web": [b"v1"]})})
    world.commit(digest)
    plan = make_plan(world.device, digest, online=False)
    app = plan.apps[0]
    image_documents = [item.digest for item in app.images[0].documents]
    for wanted in sorted(plan.blobs):
        damaged(world.device.stores.data.blob_path(wanted))
    for wanted in image_documents:
        assert copies.find_copy(world.device, wanted) is None
        (world.root / "content" / wanted).write_bytes(world.blobs[wanted])
    for wanted in sorted(plan.blobs):
        assert copies.find_copy(world.device, wanted) == world.blobs[wanted], wanted
    assert copies.restore(world.device, plan.blobs) == []
    assert make_plan(world.device, digest, online=False).blobs == plan.blobs


def test_damaged_copies_are_passed_over_and_what_is_lost_is_named(world: World) -> None:
    digest = world.release({"web": world.app({"web": [b"v1"]})})
    world.commit(digest)
    plan = make_plan(world.device, digest, online=False)
    reference = Reference.parse(plan.release.apps["web"].artifact)
    (wanted,) = [item.digest for item in plan.apps[0].artifact.blobs]
    compose = plan.apps[0].project.files[0]
    damaged(compose)
    (world.root / "content" / wanted).write_bytes(b"damaged")
    damaged(world.device.stores.data.blob_path(wanted))
    assert copies.find_copy(world.device, wanted) is None
    assert copies.restore(world.device, [wanted, reference.digest]) == [wanted]
    assert not world.device.stores.data.blob_path(wanted).exists(), "missing, and not wrong"
    assert world.device.stores.data.blob_path(reference.digest).exists()


def test_links_and_large_files_are_no_copies(world: World, tmp_path: Path) -> None:
    data = b"outside"
    (tmp_path / "outside").write_bytes(data)
    (world.device.apps / "link").symlink_to(tmp_path / "outside")
    assert copies.find_copy(world.device, digest_of(data)) is None
    large = b"\0" * (8 * 1024 * 1024 + 1)
    (world.device.apps / "large").write_bytes(large)
    assert copies.find_copy(world.device, digest_of(large)) is None
    (world.device.data / "trust").mkdir()
    (world.device.data / "trust" / "release.json").write_bytes(data)
    assert copies.find_copy(world.device, digest_of(data)) == data


def test_candidates_are_current_previous_factory(world: World) -> None:
    assert update.candidates(world.device) == []
    first = world.release({"web": world.app({"web": [b"v1"]})})
    world.commit(first)
    second = world.release({"web": world.app({"web": [b"v2"]})})
    world.commit(second)
    assert update.candidates(world.device) == [second, first]
