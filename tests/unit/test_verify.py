"""What verify names, one kind of damage at a time, and which rung a reset without a name uses.

Stores, state and plans are real, and the links of engine snapshots; the engine is a stand-in.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pruneworld import World

from composeapps import copies, install, ladder, mend, mounts, reset, verify
from composeapps.engine import Container
from composeapps.errors import ConfigError, EngineError, IntegrityError, UnsupportedError
from composeapps.plan import Plan, make_plan
from composeapps.verify import APP, ENGINE, FETCH, IMAGE, Finding

HEALTHY = Container("i", "n", "app", "web", "i", "running", 0, "healthy", 0, "t")


class Whole:
    """A device with nothing wrong on it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World(root, monkeypatch)
        self.device = self.world.device
        with self.device.writer("test"):
            self.world.commit(self.world.release({"app": self.world.app({"web": [b"a", b"b"]})}))
        self.containers = [HEALTHY]
        self.images: set[str] = set()
        self.engine = SimpleNamespace(
            wait_ready=lambda timeout: None,
            check=lambda: "26.1.5",
            has_image=lambda name: name in self.images,
            containers=lambda name: self.containers,
            log_tail=lambda container: "",
        )
        self.device.__dict__["engine"] = self.engine
        self.mounted: set[str] = set()
        monkeypatch.setattr(mounts, "mounted", lambda directory: self.mounted)
        self.links: list[Path] = []
        rows = []
        for number, (chain_id, (image, layer)) in enumerate(self.plan.chains.items()):
            sealed = install.sealed_layer(self.device, layer)
            self.mounted.add(sealed.name)
            link = root / "engine" / str(number) / "fs"
            link.parent.mkdir(parents=True)
            link.symlink_to(self.device.layers / sealed.name)
            self.links.append(link)
            self.device.state.set_snapshot(chain_id, link)
            rows.append(f"{chain_id} Committed\n")
            self.images.add(install.image_name(image))
            for item in image.documents:
                content = root / "content" / item.digest
                content.write_bytes(self.world.blobs[item.digest])
        (root / "snapshots").write_text("".join(rows))

    @property
    def plan(self) -> Plan:
        return make_plan(self.device, self.device.state.current, online=False)

    def layer(self) -> Path:
        return next(self.device.stores.data.all_layers()).path

    def found(self) -> set[tuple[str, str]]:
        return {(item.kind, item.rung) for item in verify.verify(self.device, deep=True)}


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Whole:
    return Whole(tmp_path, monkeypatch)


def test_a_whole_device_has_nothing_to_name(whole: Whole) -> None:
    assert verify.verify(whole.device, deep=True) == []


def spoil_layer(whole: Whole) -> None:
    path = whole.layer()
    path.unlink()  # with fs-verity it cannot be written
    path.write_bytes(b"garbage")


def spoil_blob(whole: Whole) -> None:
    digest = whole.plan.apps[0].images[0].documents[-1].digest
    whole.device.stores.data.blob_path(digest).write_bytes(b"garbage")


def spoil_content(whole: Whole) -> None:
    digest = whole.plan.apps[0].images[0].documents[0].digest
    (whole.world.root / "content" / digest).write_bytes(b"garbage")


def refuse(error: EngineError) -> Callable[[Whole], None]:
    def check() -> str:
        raise error

    return lambda whole: setattr(whole.engine, "check", check)


DAMAGE: dict[str, tuple[Callable[[Whole], object], set[tuple[str, str]]]] = {
    "layer": (spoil_layer, {("layer", APP)}),
    "no layer": (lambda whole: whole.layer().unlink(), {("layer", FETCH)}),
    "blob": (spoil_blob, {("blob", FETCH)}),
    "mount": (lambda whole: whole.mounted.clear(), {("mount", APP)}),
    "no link": (lambda whole: os.unlink(whole.links[0]), {("snapshot", APP)}),
    "snapshots": (
        lambda whole: (whole.world.root / "snapshots").write_text(""),
        {("snapshot", APP)},
    ),
    "image": (lambda whole: whole.images.clear(), {("image", APP)}),
    "content": (spoil_content, {("content", APP)}),
    "container": (lambda whole: whole.containers.clear(), {("container", APP)}),
    "engine": (refuse(EngineError("no")), {("engine", ENGINE)}),
    "old engine": (refuse(UnsupportedError("no")), {("engine", IMAGE)}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_damage_is_named_with_what_mends_it(whole: Whole, name: str) -> None:
    spoil, wanted = DAMAGE[name]
    spoil(whole)
    assert whole.found() == wanted


def test_project_files_are_compared_with_what_was_published(whole: Whole) -> None:
    (whole.plan.apps[0].root / "more").write_text("x")
    assert whole.found() == {("project", APP)}


def test_small_documents_are_only_compared_where_it_looks_deep(whole: Whole) -> None:
    spoil_content(whole)
    spoil_layer(whole)
    assert verify.verify(whole.device, deep=False) == []


def test_the_factory_is_gone_back_to_though_its_release_failed_once(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, device = whole.world, whole.device
    did: list[str] = []
    monkeypatch.setattr(ladder, "begin", lambda device, digest: did.append(f"begin {digest}"))
    monkeypatch.setattr(ladder, "start", lambda device: did.append("start"))
    with pytest.raises(ConfigError, match="carries no factory release"):
        mend.reset_to_factory(device)
    release = world.release({"app": world.app({"web": [b"c"]})})
    device.state.fail(release, "why", "failed", {})
    shutil.copytree(world.store, device.settings.paths.factory)
    (device.settings.paths.factory / "release.json").write_bytes(world.blobs[release])
    for name in ("factory_digest", "_factory_release"):
        device.__dict__.pop(name, None)
    mend.reset_to_factory(device)
    assert did == [f"begin {release}", "start"]
    record = device.state.release(release)
    assert record is not None
    assert record.state == "pending", "a person asks for it"
    assert [(e.kind, dict(e.body)) for e in device.state.events()][-1] == (
        *("reset-factory", {"release": release}),
    )


def finding(rung: str, *apps: str) -> Finding:
    return Finding("thing", "name", "is damaged", rung, apps)


@pytest.mark.parametrize(
    ("looks", "done"),
    [
        ([[], []], ["start"]),
        ([[finding(APP, "b", "a")], []], ["reset a b", "start"]),
        ([[finding(ENGINE)], [], []], ["revive", "start"]),
        ([[finding(ENGINE)], [finding(ENGINE)], []], ["revive", "reset engine", "start"]),
        ([[finding(ENGINE), finding(APP, "a")], [finding(ENGINE)], []],
         ["revive", "reset engine", "reset a", "start"]),
        ([[finding(ENGINE), finding(APP, "a")], [], []], ["revive", "reset a", "start"]),
        ([[finding(IMAGE)], [finding(IMAGE)]], ["start"]),
        ([[finding(FETCH)], [finding(FETCH)]], ["start", "lacks"]),
    ],
)  # fmt: skip
def test_the_smallest_rung_that_mends_what_was_found(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, looks: list[list[Finding]], done: list[str]
) -> None:
    did: list[str] = []
    left = iter(looks)
    runs: Any = SimpleNamespace(release=SimpleNamespace(version=1))

    def start(device: object) -> Any:
        did.append("start")
        return runs

    def reset_apps(device: object, plan: object, names: list[str], reason: str) -> None:
        did.append(f"reset {' '.join(names)}")

    monkeypatch.setattr(verify, "verify", lambda device, deep: next(left))
    monkeypatch.setattr(copies, "restore", lambda device, digests: [])
    monkeypatch.setattr(mend, "_restore_documents", lambda device: next(left))
    monkeypatch.setattr(reset, "revive_engine", lambda device, reason: did.append("revive"))
    monkeypatch.setattr(reset, "reset_engine", lambda device, reason: did.append("reset engine"))
    monkeypatch.setattr(reset, "reset_apps", reset_apps)
    monkeypatch.setattr(ladder, "start", start)
    try:
        mend.reset_what_is_damaged(whole.device)
    except IntegrityError as error:
        assert "thing name: composeapps update mends it" in str(error)
        did.append("lacks")
    assert did == done
