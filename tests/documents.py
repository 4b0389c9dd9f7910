"""Documents whose commands are run as a newcomer types them; what they leave open is filled in."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from mkfs import directory_with_mkfs
from stock import program

ROOT = Path(__file__).resolve().parents[1]
PASSWORD = "correct horse"


def section(document: str, heading: str) -> str:
    """Return what stands below a heading of the second level, less the words after its name."""
    found = document.split(f"\n## {heading}", 1)[1]
    return found.partition("\n")[2].split("\n## ", 1)[0]


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [part.split("```", 1)[0] for part in text.split(f"```{language}\n")[1:]]


def commands(text: str) -> list[str]:
    """Return the commands of a block, one a line, less what is said of them."""
    lines = (line.split("  #")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


class Desk:
    """A maker's directory, with what documents take for granted: images, mkfs.erofs, Compose."""

    def __init__(self, place: Path, images: Path) -> None:
        self.place = place
        ignored = shutil.ignore_patterns("*.egg-info")
        shutil.copytree(ROOT / "agent", place / "agent", ignore=ignored)
        (place / "images").symlink_to(images)
        (place / "tools").mkdir()
        compose = directory_with_mkfs(place / "tools") / "docker-compose"
        words = " ".join(program("docker-compose", ""))
        compose.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        compose.chmod(0o755)

    def run(self, command: str, venv: str) -> str:
        """Run a command of a shell, which has to succeed; return what it printed."""
        path = f"{self.place}/{venv}/bin:{self.place}/tools:{os.environ['PATH']}"
        environment = {"PATH": path, "HOME": str(self.place), "COMPOSEAPPS_PASSWORD": PASSWORD}
        environment |= {name: text for name, text in os.environ.items() if name.startswith("PIP_")}
        done = subprocess.run(
            command, shell=True, cwd=self.place, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout
