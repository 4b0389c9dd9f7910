"""The update machine: which state stands written while work is done, and what comes of each end.

The state file is real; what the work touches (plans, engine, gate) is a stand-in that notes it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from powercut import PowerCutError

from composeapps import config, fetch, gate, install, state, update
from composeapps.device import Device
from composeapps.errors import (
    ComposeAppsError,
    ConfigError,
    EngineError,
    IntegrityError,
    SealError,
    SettingsError,
    SourceError,
    SpaceError,
    TrustError,
    UnhealthyError,
    UnsupportedError,
    UpdateFailedError,
)
from composeapps.gate import Unhealthy
from composeapps.process import ProcessError

FIRST, OLD, NEW = ("sha256:" + letter * 64 for letter in "fac")
NAMES = {FIRST: "first", OLD: "old", NEW: "new"}
#: What the engine says when its store is damaged (``damage``).
DAMAGED = "layer does not exist"


class Machine:
    """A device on its second release, about to switch to a third."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        paths = {name: str(directory / name) for name in ("data", "run", "factory")}
        self.device = Device(config.parse({"paths": paths, "update": {"attempts": 3}}, "test"))
        self.state = self.device.state
        self.did: list[str] = []
        #: What goes wrong, by what is done to which release.
        self.errors: dict[str, BaseException] = {}
        self.answers = True
        for version, digest in enumerate((FIRST, OLD, NEW), 1):
            self.state.add_release(digest, "stable", version, b"")
        for digest in (FIRST, OLD):
            self._bring(digest, "fetching", "fetched", "installing", "starting")
            self.state.commit(digest, "committed", {})
        self._bring(NEW, "fetching", "fetched")
        self.device.__dict__["engine"] = SimpleNamespace(
            wait_ready=self._wait_ready,
            check=lambda: "26.1.5",
            stop=self._stop,
            remove_containers=lambda name: self.did.append(f"remove {name}"),
            remove_networks=lambda name: None,
        )
        monkeypatch.setattr(update, "make_plan", self._plan)
        monkeypatch.setattr(update, "known_names", lambda device: {"first", "old", "new"})
        monkeypatch.setattr(install, "tell", self._does("tell"))
        monkeypatch.setattr(update, "start_apps", self._does("start"))
        monkeypatch.setattr(gate, "watch", self._watch)
        monkeypatch.setattr(
            fetch, "fetch_layers", lambda device, plan, progress: self._note("fetch", plan)
        )

    def _bring(self, digest: str, *states: str) -> None:
        for step in states:
            self.state.advance(digest, step)

    def _wait_ready(self, timeout: float) -> None:
        if not self.answers:
            raise EngineError("no engine")

    def _stop(self, name: str) -> None:
        if f"stop {name}" in self.errors:
            raise self.errors[f"stop {name}"]
        self.did.append(f"stop {name}")

    def _plan(self, device: Device, digest: str, *, online: bool) -> Any:
        plan = SimpleNamespace(digest=digest, apps=[SimpleNamespace(name=NAMES[digest])])
        self._note("plan", plan)
        return plan

    def _does(self, what: str) -> Callable[[Device, Any], None]:
        return lambda device, plan: self._note(what, plan)

    def _watch(self, device: Device, plan: Any, apps: list[Any]) -> list[Unhealthy]:
        try:
            self._note("gate", plan)
        except UnhealthyError as error:
            return [Unhealthy(apps[0].name, str(error), "its last lines")]
        return []

    def _note(self, what: str, plan: Any) -> None:
        record = self.record
        self.did.append(f"{what} {NAMES[plan.digest]} while {record.state}")
        error = self.errors.get(f"{what} {NAMES[plan.digest]}")
        if error is not None:
            raise error

    @property
    def record(self) -> state.ReleaseRecord:
        found = self.state.release(NEW)
        assert found is not None
        return found

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what is to be reported of the third release, and of stand-ins."""
        return [(event.kind, dict(event.body)) for event in self.state.events()][2:]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def failed(machine: Machine, match: str) -> None:
    """Apply the third release, which has to be rolled back, and check that all of it is told."""
    with pytest.raises(UpdateFailedError, match=match):
        update.apply(machine.device, NEW)
    assert (machine.state.current, machine.record.state) == (OLD, "failed")
    assert machine.state.switching() is None


def test_each_state_is_written_before_its_work(machine: Machine) -> None:
    update.apply(machine.device, NEW)
    assert machine.did == [
        "plan new while installing",
        "tell new while installing",
        *("stop first", "remove first", "stop old", "remove old"),
        "start new while starting",
        "gate new while starting",
    ]
    assert (machine.state.current, machine.state.previous) == (NEW, OLD)
    assert machine.events() == [("committed", {"release": NEW, "channel": "stable", "version": 3})]


def test_an_app_that_cannot_be_stopped_is_removed_all_the_same(machine: Machine) -> None:
    machine.errors["stop old"] = EngineError("it does not end")
    update.apply(machine.device, NEW)
    assert "remove old" in machine.did
    assert machine.state.current == NEW


def test_what_was_starting_goes_on_starting(machine: Machine) -> None:
    """Nothing but what it runs may look at it then, so it is never called uninstalled again."""
    machine.state.advance(NEW, "installing")
    machine.state.advance(NEW, "starting")
    update.apply(machine.device, NEW)
    assert machine.did[0] == "plan new while starting"
    assert machine.state.current == NEW


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("plan new", IntegrityError("no such blob")),
        ("plan new", ConfigError("not for this platform")),
        ("plan new", TrustError("another digest")),
        ("tell new", EngineError("it was refused")),
        ("tell new", SealError("not exact")),
        ("start new", ProcessError(["docker-compose"], "ended with 1")),
        ("gate new", UnhealthyError("it crashed")),
    ],
)
def test_a_release_that_does_not_pass_is_rolled_back_reported_and_remembered(
    machine: Machine, what: str, error: Exception
) -> None:
    machine.errors[what] = error
    failed(machine, "rolled back")
    back = machine.did[machine.did.index("plan old while rolling-back") :]
    assert back == [
        "plan old while rolling-back",
        "tell old while rolling-back",
        *("stop first", "remove first", "stop new", "remove new"),
        "start old while rolling-back",
        "gate old while rolling-back",
    ]
    ((kind, body),) = machine.events()
    assert (kind, body["release"], body["version"], body["outcome"]) == (
        *("failed", NEW, 3, "rolled back"),
    )
    assert str(error) in body["reason"]
    assert str(error) in machine.record.reason
    logs = [app["log"] for app in body.get("apps", [])]
    assert logs == (["its last lines"] if what == "gate new" else [])


def test_a_roll_back_that_was_interrupted_goes_on_and_starts_nothing_new(machine: Machine) -> None:
    machine.errors["gate new"] = UnhealthyError("it crashed")
    machine.errors["tell old"] = EngineError("the engine went away")
    with pytest.raises(EngineError):
        update.apply(machine.device, NEW)
    assert machine.record.state == "rolling-back"
    machine.errors.clear()
    machine.did.clear()
    failed(machine, "it crashed")
    assert not any("new while" in line for line in machine.did)


def test_a_start_that_is_interrupted_again_and_again_counts_as_failed(machine: Machine) -> None:
    """The power goes in each: only that it was begun is written."""
    machine.errors["start new"] = PowerCutError()
    for _ in range(3):
        with pytest.raises(PowerCutError):
            update.apply(machine.device, NEW)
    machine.did.clear()
    failed(machine, "its start was interrupted 3 times")
    assert not any("new while" in line for line in machine.did)


def test_a_first_release_is_tried_for_ever(machine: Machine) -> None:
    """There is nothing to go back to."""
    machine.state.put("current", "")
    machine.errors["start new"] = PowerCutError()
    for _ in range(5):
        with pytest.raises(PowerCutError):
            update.apply(machine.device, NEW)
    machine.errors.clear()
    update.apply(machine.device, NEW)
    assert machine.state.current == NEW


@pytest.mark.parametrize("error", [EngineError("x"), ProcessError(["docker-compose"], "x")])
def test_an_engine_that_went_away_is_not_the_releases_fault(
    machine: Machine, error: ComposeAppsError
) -> None:
    def away(device: Device, plan: Any) -> None:
        machine.answers = False
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(install, "tell", away)
        with pytest.raises(type(error)):
            update.apply(machine.device, NEW)
    assert machine.record.state == "installing"
    machine.answers = True
    update.apply(machine.device, NEW)
    assert machine.state.current == NEW


@pytest.mark.parametrize("error", [UnsupportedError("no EROFS"), EngineError(DAMAGED)])
def test_a_kernel_or_a_damaged_engine_is_not_the_releases_fault(
    machine: Machine, error: EngineError
) -> None:
    machine.errors["tell new"] = error
    with pytest.raises(EngineError):
        update.apply(machine.device, NEW)
    assert machine.record.state == "installing"
    assert machine.events() == []


def test_where_the_release_before_is_damaged_the_one_before_that_stands_in(
    machine: Machine,
) -> None:
    machine.errors["gate new"] = UnhealthyError("it crashed")
    machine.errors["plan old"] = IntegrityError("a layer is missing")
    failed(machine, "rolled back further, because of damage: a layer is missing")
    assert update.running_digest(machine.device) == FIRST
    assert [kind for kind, _ in machine.events()] == ["stand-in", "failed"]
    update.note_stand_in(machine.device, FIRST, [])
    assert len(machine.events()) == 2, "once"
    update.note_stand_in(machine.device, OLD, [])
    assert machine.events()[-1][0] == "mended"
    assert update.running_digest(machine.device) == OLD


def test_where_no_intact_release_is_left_it_is_not_over(machine: Machine) -> None:
    machine.errors["gate new"] = UnhealthyError("it crashed")
    for name in ("old", "first"):
        machine.errors[f"tell {name}"] = IntegrityError("a layer is missing")
    with pytest.raises(IntegrityError, match="no intact release to go back to"):
        update.apply(machine.device, NEW)
    assert machine.record.state == "rolling-back"


def test_a_failed_first_release_leaves_nothing_running(machine: Machine) -> None:
    machine.state.put("current", "")
    machine.state.put("previous", "")
    machine.errors["gate new"] = UnhealthyError("it crashed")
    with pytest.raises(UpdateFailedError, match="no release to go back to"):
        update.apply(machine.device, NEW)
    assert [line for line in machine.did if line.startswith("remove")] == [
        *("remove first", "remove old"),
        *("remove first", "remove new", "remove old"),
    ]
    assert machine.record.state == "failed"


@pytest.mark.parametrize("error", [ConfigError("x"), SealError("x"), TrustError("x")])
def test_what_can_never_be_used_is_remembered_when_it_is_fetched(
    machine: Machine, error: ComposeAppsError
) -> None:
    machine.errors["fetch new"] = error
    with pytest.raises(UpdateFailedError, match="release 3 cannot be used: x"):
        update.fetch_release(machine.device, NEW, lambda *_: None)
    assert machine.record.state == "failed"
    assert [kind for kind, _ in machine.events()] == ["failed"]


@pytest.mark.parametrize(
    "error", [SettingsError("x"), SourceError("x"), SpaceError("x"), IntegrityError("x")]
)
def test_what_may_be_better_another_time_is_not_held_against_a_release(
    machine: Machine, error: ComposeAppsError
) -> None:
    machine.errors["fetch new"] = error
    with pytest.raises(type(error)):
        update.fetch_release(machine.device, NEW, lambda *_: None)
    assert machine.record.state == "fetching"
    machine.errors.clear()
    update.fetch_release(machine.device, NEW, lambda *_: None)
    assert machine.record.state == "fetched"
    assert machine.events() == []


def test_fetching_what_runs_does_not_change_its_state(machine: Machine) -> None:
    machine.errors["fetch old"] = ConfigError("x")
    with pytest.raises(ConfigError):
        update.fetch_release(machine.device, OLD, lambda *_: None)
    record = machine.state.release(OLD)
    assert record is not None
    assert record.state == "committed"
