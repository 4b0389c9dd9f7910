"""The rungs that throw things away: what is reported and remembered, in which order, what stays.

Stores, state and plans are real, the engine's directories too; the engine itself, the commands that
start and stop it and Compose are stand-ins that note what is done.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pruneworld import World

from composeapps import durable, install, mounts, reset, update
from composeapps.config import Settings
from composeapps.device import Device
from composeapps.errors import EngineError
from composeapps.plan import make_plan
from composeapps.process import ProcessError


class Rung:
    """A device with an engine's directories, and what is done to both."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World(root, monkeypatch)
        self.device = self.world.device
        self.did: list[str] = []
        #: Starts that fail, and answers that do not come.
        self.refuses = 0
        self.hangs = 0
        engine = self.device.settings.engine
        changed = {"docker_root": root / "docker", "containerd_root": root / "containerd"}
        settings = self.device.settings.__dict__ | {
            "engine": type(engine)(**(engine.__dict__ | changed))
        }
        self.device.settings = Settings(**settings)
        for path in ("docker/containers/c", "docker/volumes/data/_data", "containerd/db"):
            (root / path).mkdir(parents=True)
        (root / "docker/volumes/data/_data/kept").write_text("kept")
        (root / "docker/volumes/metadata.db").write_text("names")
        self.device.__dict__["engine"] = SimpleNamespace(
            close=lambda: None,
            wait_ready=self._wait_ready,
            remove_containers=lambda name: self.did.append(f"remove containers of {name}"),
            remove_networks=lambda name: self.did.append(f"remove networks of {name}"),
        )
        monkeypatch.setattr(reset, "process", SimpleNamespace(run=self._run))
        monkeypatch.setattr(reset, "time", SimpleNamespace(sleep=lambda seconds: None))
        # What it kills and unmounts is looked for on the whole machine.
        monkeypatch.setattr(reset, "_kill_containers", lambda device: self.did.append("kill"))

    def _run(self, argv: Sequence[str], **_: Any) -> bytes:
        verb = argv[1]
        if verb == "reset-failed":
            return b""
        self.did.append(verb)
        if verb == "start" and self.refuses:
            self.refuses -= 1
            raise ProcessError(argv, "ended with 1")
        return b""

    def _wait_ready(self, timeout: float) -> None:
        if self.hangs:
            self.hangs -= 1
            raise EngineError("it hangs")

    @property
    def root(self) -> Path:
        return self.world.root

    def events(self) -> list[str]:
        return [event.kind for event in self.device.state.events() if event.kind != "committed"]

    def left(self, directory: str) -> list[str]:
        return sorted(path.name for path in (self.root / directory).iterdir())


@pytest.fixture
def rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Rung(tmp_path, monkeypatch)
    with made.device.writer("test"):
        yield made


def test_an_engine_reset_empties_all_but_volumes(rung: Rung) -> None:
    rung.device.state.set_snapshot("sha256:a", Path("/snapshots/7/fs"))
    reset.reset_engine(rung.device, "why")
    assert rung.did == ["stop", "kill", "start"]
    assert rung.left("docker") == ["volumes"]
    assert rung.left("containerd") == []
    assert (rung.root / "docker/volumes/data/_data/kept").read_text() == "kept"
    assert (rung.root / "docker/volumes/metadata.db").read_text() == "names"
    # The next store counts from 1 again: an old path would be another chain's.
    assert rung.device.state.snapshots() == {}
    assert [dict(event.body) for event in rung.device.state.events()] == [{"reason": "why"}]
    assert rung.device.state.get(reset.PENDING) == ""


def test_the_volume_database_goes_only_where_the_engine_does_not_start_with_it(rung: Rung) -> None:
    rung.refuses = 1
    reset.reset_engine(rung.device, "why")
    assert rung.did == ["stop", "kill", "start"] * 2
    assert not (rung.root / "docker/volumes/metadata.db").exists()
    assert (rung.root / "docker/volumes/data/_data/kept").read_text() == "kept"
    assert rung.events() == ["reset-engine"]


def test_what_is_moved_aside_is_durable_before_the_engine_starts(
    rung: Rung, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves a half of the old store that the engine takes for its own."""
    real = durable.fsync_dir

    def noted(path: Path) -> None:
        rung.did.append(f"sync {path.relative_to(rung.root)}")
        real(path)

    monkeypatch.setattr(durable, "fsync_dir", noted)
    reset.reset_engine(rung.device, "why")
    done = rung.did[rung.did.index("kill") : rung.did.index("start")]
    for root in ("docker", "containerd"):
        aside = done.index(f"sync {root}/{reset._ASIDE}")
        assert f"sync {root}" in done[aside:], "where it went is durable before where it was"


def test_an_engine_that_never_starts_is_reported_once_and_the_reset_goes_on_later(
    rung: Rung,
) -> None:
    rung.refuses = 4
    for _ in range(2):
        with pytest.raises(EngineError, match="does not start"):
            reset.reset_engine(rung.device, "why")
        (rung.root / "docker/containers").mkdir()  # what a try to start it leaves
    assert len(rung.left(f"docker/{reset._ASIDE}")) == 1, "the disk fills while it does not start"
    assert rung.device.state.get(reset.PENDING) == "why"
    reset.finish_engine_reset(rung.device)
    assert rung.events() == ["reset-engine"]
    assert rung.device.state.get(reset.PENDING) == ""
    rung.did.clear()
    reset.finish_engine_reset(rung.device)
    assert rung.did == []


def test_what_an_interrupted_reset_moved_aside_goes(rung: Rung) -> None:
    aside = rung.root / "docker" / reset._ASIDE
    aside.mkdir()
    (aside / "containers").mkdir()
    reset.finish_engine_reset(rung.device)
    assert rung.left("docker") == ["containers", "volumes"]
    aside.mkdir()
    (aside / "containers").mkdir()
    reset.reset_engine(rung.device, "why")
    assert rung.left("docker") == ["volumes"]


def test_a_medium_that_does_not_let_go_of_the_old_store_ends_no_reset(
    rung: Rung, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ext4 with a cleared inode: what is there can be moved with its directory, not removed."""
    real = shutil.rmtree

    def refuse(path: Path, **options: Any) -> None:
        if reset._ASIDE in str(path):
            raise OSError(errno.EUCLEAN, "Structure needs cleaning", str(path))
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    rung.refuses = 1  # so that a part is moved aside twice
    for _ in range(2):
        (rung.root / "docker/containers").mkdir(exist_ok=True)
        reset.reset_engine(rung.device, "why")
        assert rung.device.state.get(reset.PENDING) == ""
        assert rung.left("docker") == [reset._ASIDE, "volumes"]
    monkeypatch.setattr(shutil, "rmtree", real)
    reset.finish_engine_reset(rung.device)
    assert rung.left("docker") == ["volumes"]


@pytest.mark.parametrize(
    ("refuses", "hangs", "resets"),
    [(0, 0, 0), (2, 0, 0), (0, 1, 0), (1, 1, 0), (3, 0, 1), (0, 2, 1)],
)
def test_an_engine_is_reset_only_where_starting_it_is_not_enough(
    rung: Rung, refuses: int, hangs: int, resets: int
) -> None:
    """Three starts; one that runs and does not answer is started anew once."""
    rung.refuses, rung.hangs = refuses, hangs
    reset.revive_engine(rung.device, "why")
    assert rung.events() == ["reset-engine"] * resets
    assert rung.did.count("start") == refuses + hangs + 1


def test_volumes_stay_mounted_whatever_they_are_on(
    rung: Rung, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A maker may give them a file system of their own; an app must not start on empty ones."""
    monkeypatch.undo()
    root = rung.root
    points = [
        *("/", "/run", str(root), f"{root}/docker", f"{root}/docker/volumes"),
        *(f"{root}/docker/volumes/data/_data", f"{root}/docker/rootfs/overlayfs/c"),
        *(f"{root}/containerd/x", f"{root}/containerd/x/y", f"{root}/docker-other/x"),
        "/run/docker/netns/default",
    ]
    gone: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reset, "_pids_of", lambda name: [])
        patch.setattr(reset, "_mount_points", lambda: points)
        patch.setattr(reset, "shutil", SimpleNamespace(rmtree=lambda *_, **__: None))
        patch.setattr(mounts, "detach", lambda point: gone.append(str(point)))
        reset._kill_containers(rung.device)
    assert gone == [
        "/run/docker/netns/default",
        f"{root}/containerd/x/y",
        f"{root}/containerd/x",
        f"{root}/docker/rootfs/overlayfs/c",
    ]


def test_an_app_that_shares_a_damaged_layer_is_reset_too(
    rung: Rung, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs on what is damaged as well, though nobody named it."""
    world, device = rung.world, rung.device
    apps = {
        "a": world.app({"one": [b"base", b"a"]}),
        "b": world.app({"two": [b"base", b"b"]}),
        "c": world.app({"three": [b"other"]}),
    }
    world.commit(world.release(apps))
    plan = make_plan(device, device.state.current, online=False)
    shutil.copytree(world.store, device.settings.paths.factory)
    base = next(iter(plan.app("a").layers))[1]  # type: ignore[union-attr]
    data = device.stores.data.find_layer(base.diff_id, base.chain_id)
    factory = device.stores.factory.find_layer(base.diff_id, base.chain_id)
    assert data is not None
    assert factory is not None
    os.unlink(factory.path)  # with fs-verity it cannot be written
    factory.path.write_bytes(b"damaged")
    monkeypatch.setattr(install, "forget_image", lambda device, image: None)
    monkeypatch.setattr(install, "tell", lambda device, plan: rung.did.append("tell"))

    def start(device: Device, plan: Any, app: Any) -> None:
        rung.did.append(f"start {app.name}")

    monkeypatch.setattr(update, "start_app", start)
    monkeypatch.setattr(mounts, "unmount", lambda point: None)
    marks = {app.name: app.root / "mark" for app in plan.apps}
    for path in marks.values():
        path.write_text("")
    reset.reset_apps(device, plan, ["a"], "why")
    assert rung.did[-3:] == ["tell", "start a", "start b"]
    assert {line for line in rung.did if "containers" in line} == {
        "remove containers of a",
        "remove containers of b",
    }
    assert rung.events() == ["damaged-layer", "reset-app", "reset-app"]
    assert device.stores.find_layer(base.diff_id, base.chain_id) == data
    assert [name for name, path in marks.items() if path.exists()] == ["c"], "projects are new"
