"""What the tests of attacks on trust share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import TargetFile
from tufworld import World

from composeapps.errors import ComposeAppsError, TrustError

STABLE = "stable/release.json"


def refused(
    world: World,
    match: str | None = None,
    kind: tuple[type[ComposeAppsError], ...] = (TrustError,),
) -> str:
    """Look, expect a refusal in one sentence, and that the device still has what it had."""
    before = world.trust().load("stable").digest
    floor = dict(world.memory.values)
    with pytest.raises(kind, match=match) as caught:
        world.check()
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 800
    assert world.trust().load("stable").digest == before
    assert world.memory.values == floor
    return text


def serve(world: World, data: bytes) -> Callable[[Any], None]:
    """Lay a file out as a release document, and return the change that lists it."""
    info = TargetFile.from_data(STABLE, data, ["sha256"])
    world.file(f"targets/{info.get_prefixed_paths()[0]}").write_bytes(data)

    def change(targets: Any) -> None:
        targets.targets = {STABLE: info}

    return change


def two_channels(directory: Path) -> World:
    """Return a repository with two channels that a device has looked at."""
    world = World(directory)
    world.add_channel()
    world.add_channel("beta")
    world.release()
    world.release("beta", "b")
    world.check()
    return world
