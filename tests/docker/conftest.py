"""What several tests of the maker's side begin with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blobs import Blobs, write_layout
from mkfs import directory_with_mkfs
from publishparts import Maker, images
from stock import program

#: Nothing of this may be seen by Compose.
HOSTILE = {
    "COMPOSE_FILE": "/nonexistent.yaml",
    "COMPOSE_PROFILES": "secret",
    "COMPOSE_PROJECT_NAME": "other",
    "DOCKER_HOST": "tcp://127.0.0.1:1",
    "MINE": "of the maker's shell",
}


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the device's own mkfs.erofs and Compose."""
    directory = directory_with_mkfs(tmp_path_factory.mktemp("tools"))
    script = directory / "docker-compose"
    words = " ".join(program("docker-compose", os.environ.get("ENGINE", "")))
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    script.chmod(0o755)
    return directory


@pytest.fixture
def maker(
    tools: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Maker:
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return Maker(tmp_path, capsys)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Return a layout as a builder leaves it, with ``registry.test/web:1`` and ``/db:1``."""
    blobs = Blobs()
    names = {f"registry.test/{name}:1": entry for name, entry in images(blobs).items()}
    return write_layout(tmp_path / "images", blobs, names)


@pytest.fixture
def hostile_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A maker's shell is full of variables; none of them may get into an app."""
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
