"""What several unit tests begin with."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakeengine import HEADER, FakeEngine
from mkfs import directory_with_mkfs
from residentparts import Resident
from tufworld import World

from composeapps import edge, seal
from composeapps.state import State


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


@pytest.fixture(scope="module")
def newer_mkfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Put the tree's mkfs.erofs first in PATH."""
    with pytest.MonkeyPatch.context() as patch:
        place = directory_with_mkfs(tmp_path_factory.mktemp("mkfs"))
        patch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        seal.check_tool.cache_clear()
        yield place
    seal.check_tool.cache_clear()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A state file that is not there yet."""
    return tmp_path / "state.db"


@pytest.fixture
def db(file: Path) -> Iterator[State]:
    opened = State(file)
    yield opened
    opened.close()


@pytest.fixture
def resident(tmp_path: Path) -> Iterator[Resident]:
    one = Resident(tmp_path)
    yield one
    one.clean()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    fake = FakeEngine(tmp_path / "docker.sock", HEADER)
    yield fake
    fake.end()
