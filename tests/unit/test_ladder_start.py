"""The way from a start to a running release: what is taken up, resumed, reset and stood in for.

The state file is real; the engine, the apps and the rungs are stand-ins that note what is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from composeapps import config, damage, fetch, install, ladder, reset, state, update
from composeapps.device import Device
from composeapps.engine import Container
from composeapps.errors import (
    ConfigError,
    EngineError,
    IntegrityError,
    SettingsError,
    TrustError,
    UnhealthyError,
    UpdateFailedError,
)
from composeapps.oci import digest_of
from composeapps.release import App, Release

DAMAGED = EngineError("layer does not exist")


class Start:
    """A device whose image may carry a release."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        paths = {name: str(directory / name) for name in ("data", "run", "factory")}
        self.device = Device(config.parse({"paths": paths}, "test"))
        self.device.stores.data.create()
        self.state = self.device.state
        self.did: list[str] = []
        self.errors: dict[str, list[Exception]] = {}
        self.device.__dict__["engine"] = SimpleNamespace(
            wait_ready=lambda timeout: self.note("wait"), check=lambda: "26.1.5"
        )
        self.patch = monkeypatch
        for module, name in (
            (install, "tell"),
            (update, "run_apps"),
            (reset, "reset_engine"),
            (reset, "start_engine"),
            (reset, "revive_engine"),
        ):
            monkeypatch.setattr(module, name, self._does(name))
        monkeypatch.setattr(ladder, "make_plan", self._plan)
        monkeypatch.setattr(ladder, "_climb", lambda device, plan, suspects: self.note("climb"))
        monkeypatch.setattr(update, "apply", self._apply)

    def _does(self, name: str) -> Callable[..., None]:
        return lambda *_: self.note(name)

    def note(self, what: str) -> None:
        self.did.append(what)
        errors = self.errors.get(what)
        if errors:
            raise errors.pop(0)

    def _plan(self, device: Device, digest: str, *, online: bool) -> Any:
        self.note(f"plan {self.version(digest)}")
        return SimpleNamespace(digest=digest, apps=[])

    def _apply(self, device: Device, digest: str) -> Any:
        self.note(f"apply {self.version(digest)}")
        return SimpleNamespace(digest=digest, apps=[])

    def version(self, digest: str) -> int:
        record = self.state.release(digest)
        assert record is not None
        return record.version

    def release(self, version: int, *, store: Any = None) -> str:
        document = Release("stable", version, {"a": App(f"r.test/a@sha256:{'0' * 64}")}).to_bytes()
        (store or self.device.stores.data).put_blob(document)
        return digest_of(document)

    def committed(self, *versions: int) -> None:
        for version in versions:
            digest = self.release(version)
            document = self.device.stores.read_blob(digest, 10_000)
            self.state.add_release(digest, "stable", version, document)
            for step in ("fetching", "fetched", "installing", "starting"):
                self.state.advance(digest, step)
            self.state.commit(digest, "committed", {})

    def image(self, version: int) -> str:
        """Let the image carry a release."""
        factory = self.device.stores.factory
        factory.create()
        digest = self.release(version, store=factory)
        document = factory.blob_path(digest).read_bytes()
        (self.device.settings.paths.factory / "release.json").write_bytes(document)
        self.device.__dict__.pop("factory_digest", None)
        self.device.__dict__.pop("_factory_release", None)
        return digest

    def trusted(self, version: int, *, missing: bool = False) -> None:
        """Let a release be the one that was trusted last."""
        digest = self.release(version)
        raw = self.device.stores.read_blob(digest, 10_000)
        found = SimpleNamespace(raw=raw, release=Release.parse(raw, "test"), digest=digest)
        self.device.__dict__["trust"] = SimpleNamespace(load=lambda channel: found)
        self.patch.setattr(fetch, "missing", lambda device, plan: ["x"] if missing else [])
        self.patch.setattr(
            ladder, "make_plan", lambda device, digest, online: SimpleNamespace(digest=digest)
        )

    def under_way(self) -> tuple[int, str] | None:
        record = self.state.switching()
        return (record.version, record.state) if record else None


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return Start(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("committed", "image", "wanted"),
    [((), 3, 3), ((2,), 3, 3), ((3,), 3, None), ((4,), 3, None), ((), 0, None)],
)
def test_the_release_of_the_image_is_taken_up_where_it_is_newer(
    start: Start, committed: tuple[int, ...], image: int, wanted: int | None
) -> None:
    start.committed(*committed)
    if image:
        start.image(image)
    else:
        start.device.__dict__["trust"] = SimpleNamespace(load=_no_trust)
    ladder.adopt(start.device)
    assert start.under_way() == ((wanted, "installing") if wanted else None)


def _no_trust(channel: str) -> None:
    raise TrustError("no metadata")


def test_one_that_failed_here_is_not_taken_up_again(start: Start) -> None:
    start.committed(2)
    digest = start.image(3)
    start.state.add_release(digest, "stable", 3, b"")
    start.state.fail(digest, "it crashed", "failed", {})
    ladder.adopt(start.device)
    assert start.under_way() is None


def test_a_switch_that_is_under_way_goes_first(start: Start) -> None:
    start.committed(2)
    document = start.release(3)
    ladder.begin(start.device, document)
    start.image(4)
    ladder.adopt(start.device)
    assert start.under_way() == (3, "installing")


@pytest.mark.parametrize(("trusted", "image", "wanted"), [(5, 3, 5), (3, 5, 5), (5, 0, 5)])
def test_what_a_lost_state_had_committed_is_taken_up(
    start: Start, trusted: int, image: int, wanted: int
) -> None:
    start.trusted(trusted)
    if image:
        start.image(image)
    ladder.adopt(start.device)
    assert start.under_way() == (wanted, "installing")


def test_what_was_trusted_last_and_is_not_complete_is_not_taken_up(start: Start) -> None:
    start.trusted(5, missing=True)
    start.image(3)
    ladder.adopt(start.device)
    assert start.under_way() == (3, "installing")


def test_what_was_trusted_last_is_no_reason_to_leave_what_runs(start: Start) -> None:
    start.committed(2)
    start.trusted(5)
    ladder.adopt(start.device)
    assert start.under_way() is None, "a rollout, a gate or a person may be against it"


def test_a_switch_is_resumed_and_where_it_fails_what_ran_before_runs(start: Start) -> None:
    start.committed(2)
    ladder.begin(start.device, start.release(3))
    start.errors["apply 3"] = [UpdateFailedError("it crashed")]
    ladder.start(start.device)
    assert start.did == ["wait", "wait", "apply 3", "plan 2", "tell", "run_apps"]
    start.did.clear()
    ladder.start(start.device)
    assert start.did == ["wait", "wait", "apply 3"]


@pytest.mark.parametrize("error", [IntegrityError("x"), TrustError("x"), ConfigError("x")])
def test_a_release_that_cannot_be_run_is_stood_in_for(start: Start, error: Exception) -> None:
    start.committed(1, 2)
    start.errors["plan 2"] = [error]
    assert ladder.start(start.device).digest == start.state.previous
    assert start.state.get("stand-in") == start.state.previous
    ladder.start(start.device)
    assert start.state.get("stand-in") == ""
    kinds = [event.kind for event in start.state.events()]
    assert kinds == ["committed", "committed", "stand-in", "mended"]


@pytest.mark.parametrize("error", [SettingsError("x"), UnhealthyError("x")])
def test_what_is_not_damage_leads_to_no_older_release(start: Start, error: Exception) -> None:
    start.committed(1, 2)
    start.errors["plan 2"] = [error]
    with pytest.raises(type(error)):
        ladder.start(start.device)
    assert start.did[-1] == "plan 2"


def test_an_engine_that_refuses_a_release_is_started_then_reset(start: Start) -> None:
    start.committed(1)
    start.errors["tell"] = [EngineError("no"), EngineError("no")]
    ladder.start(start.device)
    done = ["plan 1", "tell", "start_engine", "tell", "reset_engine", "tell", "run_apps"]
    assert start.did[2:] == done
    start.errors["tell"] = [EngineError("no")]
    start.did.clear()
    ladder.start(start.device)
    assert start.did[3:] == ["tell", "start_engine", "tell", "run_apps"]


@pytest.mark.parametrize("where", ["tell", "run_apps"])
def test_a_damaged_engine_is_reset_a_few_times_in_one_boot_and_no_more(
    start: Start, where: str
) -> None:
    """Each is counted before it is done: one that the power cuts counts too."""
    start.committed(1)
    start.errors[where] = [DAMAGED] * 100
    counted = []

    def note(device: Device, reason: str) -> None:
        counted.append(device.state.get(damage._COUNT).partition(" ")[2])

    start.patch.setattr(reset, "reset_engine", note)
    with contextlib.suppress(EngineError):
        ladder.start(start.device)
    assert counted == ["1", "2", "3"]
    assert start.did[-1] == ("tell" if where == "tell" else "climb"), "what else there is to try"
    start.errors.clear()
    ladder.start(start.device)
    assert damage.may_reset(start.device), "it runs, so they count anew"


def test_an_engine_that_does_not_come_is_revived(start: Start) -> None:
    start.committed(1)
    start.errors["wait"] = [EngineError("no answer")]
    ladder.start(start.device)
    assert start.did[:3] == ["wait", "revive_engine", "wait"]


def test_a_reset_that_was_interrupted_goes_on_first(start: Start) -> None:
    start.committed(1)
    start.state.put(reset.PENDING, "why")
    ladder.start(start.device)
    assert start.did[0] == "reset_engine"


ILL = [("running", "unhealthy"), ("exited", ""), ("dead", ""), ("created", "")]
WELL = [("running", "healthy"), ("running", ""), ("restarting", ""), ("running", "starting")]


@pytest.mark.parametrize(("status", "health"), ILL + WELL)
def test_the_first_rung_restarts_what_is_ill_and_the_second_makes_it_anew(
    start: Start, status: str, health: str
) -> None:
    container = Container("i", "n", "a", "s", "x", status, 0, health, 0, "t")
    restarted: list[Container] = []
    engine: Any = start.device.engine
    engine.containers = lambda name: [container]
    engine.restart = restarted.append
    started: list[bool] = []

    def start_app(device: Any, plan: Any, app: Any, *, recreate: bool = False) -> None:
        started.append(recreate)

    start.patch.setattr(update, "start_app", start_app)
    plan: Any = None
    app: Any = SimpleNamespace(name="a")
    ladder._restart(start.device, plan, app)
    ladder._recreate(start.device, plan, app)
    assert restarted == ([container] if (status, health) in ILL else [])
    assert started == [False, True]


@pytest.mark.parametrize("steps", [(), ("fetching",), ("fetching", "fetched")])
def test_a_switch_begins_from_wherever_its_release_is(start: Start, steps: tuple[str, ...]) -> None:
    start.committed(2)
    digest = start.release(7)
    start.state.add_release(digest, "stable", 7, b"")
    for step in steps:
        start.state.advance(digest, step)
    ladder.begin(start.device, digest)
    assert start.under_way() == (7, state.INSTALLING)
