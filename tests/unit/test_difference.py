"""What another release changes, and second copies of documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pruneworld import World

from composeapps import copies, difference, prune, update
from composeapps.oci import Reference, digest_of
from composeapps.plan import make_plan


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = World(tmp_path, monkeypatch)
    with made.device.writer("test"):
        yield made


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


def test_compared_with_a_release_that_cannot_be_read_all_is_added(world: World) -> None:
    world.commit(world.release({"web": world.app({"web": [b"v1"]}, "old")}))
    digest = world.release({"web": world.app({"web": [b"v2"]})})
    world.store_documents()
    world.refuse("old")
    assert difference.compare(world.device, digest)["apps"] == {"web": "added"}


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
