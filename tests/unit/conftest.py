"""What several unit tests begin with."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tufworld import World

from composeapps import edge


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A repository with one release on channel stable."""
    world = World(tmp_path)
    world.add_channel()
    world.release()
    return world


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the signal handlers and the streams of the test's own process."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(edge, "_open_standard_streams", lambda: None)
    yield
    signal.signal(signal.SIGTERM, before)
