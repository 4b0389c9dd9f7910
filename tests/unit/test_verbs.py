"""What verbs do in which order, and what of it is left to the next run where one is interrupted.

The state file is real; checking, fetching, applying, starting and pruning are stand-ins.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from powercut import PowerCutError
from stateparts import DIGEST, OTHER, bring

from composeapps import config, ladder, mend, offer, prune, scrub, state, update, verbs
from composeapps import keep as keeping
from composeapps import report as outbox
from composeapps.compose import Compose
from composeapps.device import Device
from composeapps.errors import SourceError, UpdateFailedError, UsageError
from composeapps.scrub import Scrub
from composeapps.store import SealedLayer


class Verbs:
    """A device whose verbs note what they do."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        paths = {name: str(directory / name) for name in ("data", "run", "factory")}
        self.device = Device(config.parse({"paths": paths}, "test"))
        self.state = self.device.state
        self.did: list[str] = []
        self.errors: dict[str, BaseException] = {}
        app = SimpleNamespace(name="a", project="project of a")
        self.plan = SimpleNamespace(
            digest=DIGEST, apps=(app,), app=lambda name: app if name == "a" else None,
            release=SimpleNamespace(version=1),
        )  # fmt: skip
        for module, name in (
            (ladder, "start"),
            (offer, "check"),
            (update, "fetch_release"),
            (update, "running_plan"),
            (mend, "refetch"),
            (mend, "drop_layers"),
            (mend, "reset_one"),
            (prune, "prune"),
            (keeping, "again"),
            (outbox, "try_report"),
        ):
            monkeypatch.setattr(module, name, self._does(name))
        monkeypatch.setattr(update, "apply", self._apply)
        monkeypatch.setattr(Compose, "stop", self._does("stop"))

    def _does(self, name: str) -> Callable[..., Any]:
        def do(*_: Any, **__: Any) -> Any:
            self.did.append(name + (" while stopped" if self.device.stopped else ""))
            if name in self.errors:
                raise self.errors[name]
            if name == "check":
                return offer.Check(OTHER, "stable", 2, offer.AVAILABLE)
            return self.plan

        return do

    def _apply(self, device: Device, digest: str) -> Any:
        pending = self.state.get(prune.PENDING)
        self.did.append("apply" + (", prune is due" if pending else ""))
        if "apply" in self.errors:
            raise self.errors["apply"]
        for step in ("installing", "starting"):
            self.state.advance(digest, step)
        self.state.commit(digest, "committed", {})
        return self.plan

    def run(self, verb: str, **options: Any) -> None:
        plain = {"json": True, "unless_stopped": False, "scrub": False, "deep": False}
        verbs.VERBS[verb](self.device, argparse.Namespace(**(plain | options)))


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verbs:
    """Return a device with a committed release and a fetched one."""
    one = Verbs(tmp_path, monkeypatch)
    bring(one.state, "starting")
    one.state.commit(DIGEST, "committed", {})
    bring(one.state, "fetched", OTHER)
    one.state.put("target", OTHER)
    return one


def test_that_a_person_stopped_the_apps_is_written_before_the_first_one_ends(one: Verbs) -> None:
    """The resident part sees it end, and must not start it again."""
    one.run("stop")
    assert one.did == ["running_plan", "stop while stopped"]


def test_what_a_person_stopped_only_a_person_starts(one: Verbs) -> None:
    one.device.set_stopped(True)
    one.run("start", unless_stopped=True)
    assert one.did == []
    one.run("update", unless_stopped=True)
    assert one.did == ["check while stopped", "fetch_release while stopped"]
    one.did.clear()
    one.run("start")
    assert one.did == ["start", "try_report"]
    assert not one.device.stopped


def test_an_update_switches_and_then_clears_away_and_reports(one: Verbs) -> None:
    one.run("update")
    done = ["check", "refetch", "apply, prune is due", "again", "prune", "try_report"]
    assert one.did[: len(done)] == done
    assert one.state.current == OTHER
    assert one.state.get("target") == ""


def test_a_release_that_failed_is_reported_in_the_same_run(one: Verbs) -> None:
    def fails(device: Device, digest: str) -> None:
        for step in ("installing", "rolling-back"):
            one.state.advance(digest, step)
        one.state.fail(digest, "why", "failed", {})
        raise UpdateFailedError("why")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update, "apply", fails)
        with pytest.raises(UpdateFailedError):
            one.run("update")
    assert one.did[-2:] == ["prune", "try_report"]
    assert one.state.get("target") == ""


def test_a_switch_that_is_cut_clears_nothing_away_and_the_next_run_does(one: Verbs) -> None:
    one.errors["apply"] = PowerCutError()
    with pytest.raises(PowerCutError):
        one.run("update")
    assert one.did[-1] == "apply, prune is due"
    assert (one.state.get("target"), one.state.get(prune.PENDING)) == (OTHER, "yes")
    one.state.put("target", "")
    one.did.clear()
    one.run("update")
    assert one.did == ["check", "refetch", "prune", "try_report"]


@pytest.mark.parametrize("known", ["fetched", "fetching"])
def test_without_a_network_only_what_is_fetched_goes_on(one: Verbs, known: str) -> None:
    one.state.advance(OTHER, known)
    one.errors["check"] = SourceError("no network")
    if known == "fetched":
        one.run("update")
        assert "fetch_release" not in one.did
        assert one.state.current == OTHER
    else:
        with pytest.raises(SourceError):
            one.run("update")
        assert one.did == ["check"]


def test_every_release_that_failed_may_be_tried_again(one: Verbs) -> None:
    for digest in ("x", "y"):
        bring(one.state, "failed", digest)
    one.run("retry")
    assert {r.state for r in one.state.releases() if r.digest in "xy"} == {state.PENDING}
    with pytest.raises(UsageError, match="no release failed"):
        one.run("retry")


def test_damage_that_was_found_is_taken_out_of_use_and_reported(
    one: Verbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = [SealedLayer(Path("/layer"), DIGEST, "", DIGEST)]
    monkeypatch.setattr(scrub, "scrub", lambda device: Scrub(damaged=damaged))
    one.state.put(scrub.DAMAGED, "/layer")
    one.run("verify", scrub=True)
    assert one.did == ["drop_layers", "try_report"]
    assert one.state.get(scrub.DAMAGED) == ""


def test_volumes_are_removed_by_name_and_only_where_all_names_are_right(
    one: Verbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    engine = SimpleNamespace(
        volumes=lambda project: {"data": "a_data", "a_data": "a_data", "logs": "a_logs"},
        remove_containers=lambda name: one.did.append("remove containers"),
        remove_volume=lambda name: one.did.append(f"remove {name}"),
    )
    one.device.__dict__["engine"] = engine
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update, "running_plan", lambda device: one.plan)
        patch.setattr("composeapps.reset.reset_apps", lambda *_: one.did.append("reset"))
        patch.setattr(ladder, "start", lambda device: one.did.append("start"))
        for names in (["data", "nonsense"], ["nonsense"]):
            with pytest.raises(UsageError, match="app a has no volume nonsense"):
                mend.reset_one(one.device, "a", "why", names)
        with pytest.raises(UsageError, match="no app b"):
            mend.reset_one(one.device, "b", "why")
        assert one.did == []
        mend.reset_one(one.device, "a", "why", ["data", "a_data"])
        assert one.did == ["remove containers", "remove a_data", "reset", "start"]
        one.did.clear()
        mend.reset_one(one.device, "a", "why")
        assert one.did == ["reset", "start"]
