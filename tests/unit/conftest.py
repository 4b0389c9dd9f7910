"""What several unit tests begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tufworld import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A repository with one release on channel stable."""
    world = World(tmp_path)
    world.add_channel()
    world.release()
    return world
