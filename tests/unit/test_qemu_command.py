"""``python -m qemu``: it is found beside the library of the same name, and says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "build|boot|shell|cut"),
        (["cut", "{tmp}/none.raw"], 1, "no machine was started with"),
        (["shell", "{tmp}/none.raw", "true"], 1, "no machine runs in"),
        (["fly"], 2, "invalid choice"),
    ],
)
def test_the_command(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qemu", *(word.format(tmp=tmp_path) for word in words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
