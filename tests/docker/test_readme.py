"""README's commands, each as a newcomer types it; only what it leaves open is filled in."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import ROOT, Desk, blocks, commands, section

from composeapps.config import load

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, demo_layout: Path) -> Desk:
    """Return a desk with the app that README publishes."""
    desk = Desk(tmp_path_factory.mktemp("desk"), demo_layout)
    shutil.copytree(ROOT / "tests/demo/web", desk.place / "web")
    return desk


def block(heading: str, language: str) -> str:
    return blocks(section(README, heading), language)[0]


def test_the_makers_commands(desk: Desk) -> None:
    """In an environment of its own, so that the package itself says what it needs."""
    subprocess.run([sys.executable, "-m", "venv", str(desk.place / "venv")], check=True)
    digest = ""
    ran = commands(block("Use it: the maker", "sh"))
    for command in ran:
        assert "..." not in command or digest, "nothing has printed a digest before"
        printed = desk.run(command.replace("sha256:...", digest), "venv")
        if found := re.search(r"registry\.example/apps/web@(sha256:[0-9a-f]{64})", printed):
            digest = found[1]
    assert len(ran) >= 9
    assert (desk.place / "repository/metadata/1.root.json").exists()
    assert (desk.place / "factory/release.json").exists()


def test_the_devices_settings(tmp_path: Path) -> None:
    path = tmp_path / "composeapps.toml"
    path.write_text(block("Use it: the device", "toml"))
    settings = load([path], tmp_path / "none")
    assert settings.source.url == "https://updates.example/repository"


def test_every_verb_is_one() -> None:
    """The table of commands names what exists."""
    names = set(
        re.findall(
            r"`(?:composeapps )?([a-z]+)[^`]*`", README.split("\n| | |\n")[1].split("\n\n")[0]
        )
    )
    assert {"run", "update", "keep"} <= names
    for name in names:
        done = subprocess.run([sys.executable, "-m", "composeapps.cli", name, "--help"],
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stderr}"
