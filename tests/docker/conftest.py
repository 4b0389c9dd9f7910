"""What several tests of the maker's side begin with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blobs import Blobs, write_layout
from mkfs import directory_with_mkfs
from publishparts import Maker, images
from stock import program


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
