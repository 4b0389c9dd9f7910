"""Bringing back what a release lacks: what stands in its way must not keep a newer one away.

Stores, state and plans are real; Compose, fetching and starting are stand-ins.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pruneworld import World

from composeapps import fetch, ladder, mend, overview, verbs, verify
from composeapps.errors import (
    ComposeAppsError,
    ConfigError,
    EngineError,
    IntegrityError,
    NotFoundError,
    SourceError,
    UnhealthyError,
)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a device on its second release."""
    made = World(tmp_path, monkeypatch)
    with made.device.writer("test"):
        for note in ("1", "2"):
            made.commit(made.release({"web": made.app({"web": [b"v" + note.encode()]}, note)}))
        yield made


@pytest.fixture
def did(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what was done."""
    found: list[str] = []
    layers = lambda device, plan, progress: found.append(f"fetch {plan.release.version}")  # noqa: E731
    monkeypatch.setattr(fetch, "fetch_layers", layers)
    monkeypatch.setattr(ladder, "start", lambda device: found.append("start"))
    return found


def refetch(world: World) -> None:
    mend.refetch(world.device, lambda *_: None)


def layer_of(world: World, digest: str) -> Path:
    (path,) = world.seal(digest)
    return path


def test_what_is_complete_is_left_as_it_is(world: World, did: list[str]) -> None:
    refetch(world)
    assert did == []


def test_what_runs_is_fetched_and_started_and_the_one_before_is_fetched(
    world: World, did: list[str]
) -> None:
    for digest in (world.device.state.current, world.device.state.previous):
        layer_of(world, digest).unlink()
    refetch(world)
    assert did == ["fetch 2", "start", "fetch 1"]


def test_a_stand_in_ends_where_nothing_is_missing_any_more(world: World, did: list[str]) -> None:
    world.device.state.put("stand-in", world.device.state.previous)
    refetch(world)
    assert did == ["fetch 2", "start"]


@pytest.mark.parametrize("reads", [True, False], ids=["incomplete", "unreadable"])
def test_nothing_about_the_release_before_is_an_error(
    world: World, did: list[str], monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    """Its maker may have removed it; another image may have another Compose."""
    if reads:
        layer_of(world, world.device.state.previous).unlink()

        def gone(*_: object) -> None:
            did.append("asked")
            raise NotFoundError("it is gone")

        monkeypatch.setattr(fetch, "fetch_layers", gone)
    else:
        world.refuse("1")
    refetch(world)
    assert did == (["asked"] if reads else [])


@pytest.mark.parametrize(
    "error",
    [
        SourceError("it is gone"),
        ConfigError("it cannot be read"),
        IntegrityError("it is damaged there too"),
        UnhealthyError("it does not run"),
    ],
)
def test_what_cannot_be_made_whole_waits_for_a_newer_release_and_never_stops_it(
    world: World, monkeypatch: pytest.MonkeyPatch, error: ComposeAppsError
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(mend, "refetch", fails)
    for target in ("", world.device.state.current):
        world.device.state.put("target", target)
        with pytest.raises(type(error)):
            verbs._refetch(world.device)
    world.device.state.put("target", world.release({"web": world.app({"web": [b"v3"]})}))
    verbs._refetch(world.device)


def test_a_release_that_this_image_cannot_read_is_named_and_stops_no_look(world: World) -> None:
    """Else neither verify nor the reset that begins with it could be used."""
    previous = world.device.state.previous
    world.refuse("1")
    found = verify.verify(world.device, deep=True)
    assert ("release", previous, verify.IMAGE) in [(f.kind, f.name, f.rung) for f in found]
    world.refuse("2")
    world.device.__dict__["engine"] = SimpleNamespace(containers=_refuse)
    value, code = overview.status(world.device)
    assert "2 is not supported" in value["error"]
    assert code == ConfigError.exit_code


def _refuse(_: str) -> None:
    raise EngineError("not asked")
