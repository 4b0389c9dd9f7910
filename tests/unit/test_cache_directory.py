"""Where trees and images are cached is there before anything is locked in it."""

from __future__ import annotations

from pathlib import Path

import pytest

import tree


def test_the_first_command_in_a_fresh_clone_finds_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSEAPPS_CACHE", str(tmp_path / "new" / "cache"))
    assert tree.cache_directory().is_dir()
