"""How long the ladder climbs and in which order; the gate and the rungs are stand-ins here."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from composeapps import gate, ladder
from composeapps.config import Settings
from composeapps.errors import EngineError
from composeapps.gate import Unhealthy
from composeapps.health import FAILED, HEALTHY, Verdict
from composeapps.update import GateError

LIMIT = 100.0


class Climb:
    """A release with two apps, and what each look at them finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.did: list[str] = []
        self.events: list[str] = []
        self.looks: Iterator[set[str]] = iter(())
        self.costs = 1.0
        self.error: Exception | None = None
        apps = tuple(SimpleNamespace(name=name) for name in "ab")
        self.plan: Any = SimpleNamespace(digest="sha256:x", apps=apps)
        state = SimpleNamespace(
            add_event=lambda kind, body: self.events.append(kind), get=lambda key: ""
        )
        self.device: Any = SimpleNamespace(state=state, settings=Settings(), boot_id="x")
        self.first = {"a": HEALTHY, "b": HEALTHY}
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("composeapps.ladder.time", clock)
        monkeypatch.setattr(gate, "limits", lambda device, plan, app: (LIMIT, 1.0))
        monkeypatch.setattr(gate, "watch", self.watch)
        verdicts = lambda device, plan: {n: Verdict(s) for n, s in self.first.items()}  # noqa: E731
        monkeypatch.setattr(gate, "snapshot_of_health", verdicts)
        for name in ("_restart", "_recreate", "_reset_app"):
            monkeypatch.setattr(ladder, name, self.rung(name))

    def rung(self, name: str) -> Any:
        def do(device: Any, plan: Any, app: Any) -> None:
            self.now += self.costs
            self.did.append(f"{name.strip('_')} {app.name}")
            if self.error is not None:
                raise self.error

        do.__name__ = name
        return do

    def watch(
        self, device: Any, plan: Any, apps: Any, *, until: float, every: bool
    ) -> list[Unhealthy]:
        assert every, "all that are unhealthy are asked for"
        found = next(self.looks)
        if found:
            self.now = max(self.now, min(self.now + LIMIT, until))
        return [Unhealthy(name, "is not well") for name in sorted(found)]

    def climb(self, *looks: str, suspects: str = "a") -> None:
        self.looks = iter([set(look) for look in looks])
        ladder._climb(self.device, self.plan, set(suspects))


@pytest.fixture
def climb(monkeypatch: pytest.MonkeyPatch) -> Climb:
    return Climb(monkeypatch)


def test_it_ends_with_the_rung_that_helps(climb: Climb) -> None:
    climb.climb("a", "")
    assert climb.did == ["restart a", "recreate a"]
    assert climb.events == []


def test_an_app_that_falls_ill_later_gets_the_next_rung(climb: Climb) -> None:
    climb.climb("b", "ab", "")
    assert climb.did == ["restart a", "recreate b", "reset_app a", "reset_app b"]


def test_a_look_at_the_start_finds_who_else_is_ill(climb: Climb) -> None:
    climb.first = {"a": HEALTHY, "b": FAILED}
    climb.climb("", suspects="")
    assert climb.did == ["restart b"]


def test_when_nothing_helps_it_says_so_in_bounded_time(climb: Climb) -> None:
    begun = climb.now
    with pytest.raises(GateError):
        climb.climb("a", "a", "a")
    assert climb.did == ["restart a", "recreate a", "reset_app a"]
    assert climb.events == ["unhealthy"]
    assert climb.now - begun <= ladder.CLIMB * LIMIT


def test_rungs_that_take_long_count_too(climb: Climb) -> None:
    climb.costs = ladder.CLIMB * LIMIT - 1
    begun = climb.now
    with pytest.raises(GateError):
        climb.climb("ab", "ab", "ab", suspects="ab")
    assert climb.did == ["restart a", "restart b"]
    assert climb.now - begun <= 2 * climb.costs + 1, "no more than one command beyond the bound"


def test_a_rung_that_cannot_be_done_does_not_end_the_climb(climb: Climb) -> None:
    climb.error = EngineError("no")
    climb.climb("a", "a", "")
    assert climb.did == ["restart a", "recreate a", "reset_app a"]


def test_damage_of_the_engine_ends_the_climb_at_once(climb: Climb) -> None:
    climb.error = EngineError("Docker, while restarting a container: layer does not exist")
    with pytest.raises(EngineError):
        climb.climb()
    assert climb.did == ["restart a"]
