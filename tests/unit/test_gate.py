"""Watching apps: who ends the wait. The engine is a stand-in, the judgement is real."""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace
from typing import Any

import pytest

from composeapps import gate
from composeapps.config import Settings, UpdateSettings
from composeapps.engine import Container
from composeapps.errors import EngineError
from composeapps.health import Expectation

HEALTHY = Container("i", "n", "p", "s", "i", "running", 0, "healthy", 0, "t")


@pytest.fixture
def device() -> Any:
    """Return a device whose engine has what ``found`` says."""
    settings = Settings(update=UpdateSettings(health_timeout=60.0, settle=0.0))
    found: dict[str, list[Container]] = {}
    engine = SimpleNamespace(containers=lambda name: found[name], log_tail=lambda id_: "log")
    return SimpleNamespace(settings=settings, engine=engine, found=found)


def apps(device: Any, **containers: dict[str, Any]) -> list[Any]:
    policy = SimpleNamespace(health_timeout=None, settle=None)
    made = []
    for name, changes in containers.items():
        device.found[name] = [dataclasses.replace(HEALTHY, **changes)]
        made.append(SimpleNamespace(name=name, policy=policy, expected=(Expectation("s"),)))
    return made


PLAN: Any = SimpleNamespace(
    release=SimpleNamespace(gates=SimpleNamespace(health_timeout=None, settle=None))
)
BAD = {"status": "exited", "exit_code": 3}
WAITS = {"health": "starting"}


def test_the_first_that_cannot_become_healthy_ends_it(device: Any) -> None:
    found = gate.watch(device, PLAN, apps(device, bad=BAD, waits=WAITS, good={}))
    assert [(one.app, one.reason) for one in found] == [("bad", "s: ended with exit code 3")]


def test_all_are_judged_where_that_is_asked_for(device: Any) -> None:
    until = time.monotonic() + 1
    watched = apps(device, bad=BAD, waits=WAITS, good={})
    found = gate.watch(device, PLAN, watched, until=until, every=True)
    assert [one.app for one in found] == ["bad", "waits"]
    assert found[1].reason.startswith("not healthy in time")
    assert until <= time.monotonic() < until + 30, "an app's own limit is 60 s"


def test_a_bound_that_is_over_allows_one_look(device: Any) -> None:
    past = time.monotonic() - 1
    assert gate.watch(device, PLAN, apps(device, good={}), until=past) == []


def test_a_log_that_cannot_be_read_does_not_hide_why_an_app_failed(device: Any) -> None:
    """Logging driver ``none`` has no log, and the engine answers with an error."""

    def none(id_: str) -> str:
        raise EngineError("configured logging driver does not support reading")

    device.engine.log_tail = none
    (found,) = gate.watch(device, PLAN, apps(device, bad=BAD))
    assert found.reason == "s: ended with exit code 3"
    assert found.log == "(configured logging driver does not support reading)"


@pytest.mark.parametrize(
    ("app", "release", "wanted"),
    [
        ((None, None), (None, None), (60, 7)),
        ((None, None), (50, 5), (50, 5)),
        ((40, 0), (50, 5), (40, 0)),
        ((40, None), (None, 5), (40, 5)),
        ((None, 3), (50, None), (50, 3)),
    ],
)
def test_an_apps_own_limits_go_before_the_releases_and_those_before_the_devices(
    device: Any, app: tuple[Any, Any], release: tuple[Any, Any], wanted: tuple[int, int]
) -> None:
    device.settings = Settings(update=UpdateSettings(health_timeout=60.0, settle=7.0))

    def limits(values: tuple[Any, Any]) -> Any:
        return SimpleNamespace(health_timeout=values[0], settle=values[1])

    plan: Any = SimpleNamespace(release=SimpleNamespace(gates=limits(release)))
    one: Any = SimpleNamespace(policy=limits(app))
    assert gate.limits(device, plan, one) == wanted


def test_the_log_of_what_failed_goes_with_the_reason(device: Any) -> None:
    (found,) = gate.watch(device, PLAN, apps(device, bad=BAD))
    assert found.log == "log"
