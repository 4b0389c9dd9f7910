"""README's commands, each as a newcomer types it; only what it leaves open is filled in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mkfs import directory_with_mkfs
from stock import program

from composeapps.config import load

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PASSWORD = "correct horse"


def block(heading: str, language: str) -> str:
    """Return the first fenced block of a language below a heading."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return section.split(f"```{language}\n", 1)[1].split("```", 1)[0]


def commands(text: str) -> list[str]:
    lines = (line.split("  #")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, demo_layout: Path) -> Path:
    """Return a directory with what README takes for granted: this repository, images, an app."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(ROOT / "agent", desk / "agent", ignore=shutil.ignore_patterns("*.egg-info"))
    shutil.copytree(ROOT / "tests/demo/web", desk / "web")
    (desk / "images").symlink_to(demo_layout)
    (desk / "tools").mkdir()
    tools = directory_with_mkfs(desk / "tools")
    compose = tools / "docker-compose"
    compose.write_text(f'#!/bin/sh\nexec {" ".join(program("docker-compose", ""))} "$@"\n')
    compose.chmod(0o755)
    return desk


def run(command: str, desk: Path) -> str:
    path = f"{desk}/venv/bin:{desk}/tools:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(desk), "COMPOSEAPPS_PASSWORD": PASSWORD}
    environment |= {name: text for name, text in os.environ.items() if name.startswith("PIP_")}
    done = subprocess.run(
        command, shell=True, cwd=desk, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_makers_commands(desk: Path) -> None:
    """In an environment of its own, so that the package itself says what it needs."""
    subprocess.run([sys.executable, "-m", "venv", str(desk / "venv")], check=True)
    digest = ""
    ran = commands(block("Use it: the maker", "sh"))
    for command in ran:
        assert "..." not in command or digest, "nothing has printed a digest before"
        printed = run(command.replace("sha256:...", digest), desk)
        if found := re.search(r"registry\.example/apps/web@(sha256:[0-9a-f]{64})", printed):
            digest = found[1]
    assert len(ran) >= 9
    assert (desk / "repository/metadata/1.root.json").exists()
    assert (desk / "factory/release.json").exists()


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
