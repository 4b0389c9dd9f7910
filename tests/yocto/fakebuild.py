"""A build directory for bitbake's library: the real layer on a fake of openembedded-core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LAYER = ROOT / "meta-composeapps"
#: Classes of OE's that are empty here.
CLASSES = (
    "allarch autotools features_check nativesdk packagegroup pkgconfig ptest pypi python_flit_core "
    "python_hatchling setuptools3 systemd"
).split()
#: Seconds; a run of the library takes one, a task that seals a few more.
TIMEOUT = 300


@dataclass(frozen=True)
class Done:
    """What a run gave."""

    code: int
    value: Any
    said: str

    @property
    def errors(self) -> list[str]:
        """What bitbake called an error or a warning, each on one line."""
        lines = self.said.splitlines()
        return [line for line in lines if line.startswith(("CRITICAL: ", "ERROR: ", "WARNING: "))]


class FakeBuild:
    """One build directory."""

    def __init__(
        self,
        directory: Path,
        series: str = "wrynose",
        path: str = "",
        layers: Sequence[Path] = (),
    ) -> None:
        """Make it.

        Args:
            series: code name of the Yocto release that the fake core plays.
            path: for tools; the caller's by default.
            layers: besides the real one.
        """
        self.directory = directory
        self._path = path or os.environ["PATH"]
        (directory / "conf").mkdir(parents=True)
        (directory / "classes").mkdir()
        for name in CLASSES:
            (directory / "classes" / f"{name}.bbclass").write_text("# A fake.\n")
        names = " ".join(map(str, (HERE / "fake-core", LAYER, *layers)))
        (directory / "conf" / "bblayers.conf").write_text(
            f'BBPATH = "{directory}"\nFAKE_SERIES = "{series}"\nBBFILES ?= ""\n'
            f'BBLAYERS = "{names}"\n'
        )
        self.configure({})

    def configure(self, values: Mapping[str, str]) -> None:
        """Write local.conf."""
        lines = [f'{name} = "{value}"\n' for name, value in values.items()]
        (self.directory / "conf" / "local.conf").write_text("".join(lines))

    def run(self, command: str, *arguments: str) -> Done:
        """Run the library; see ``bitbake_library``."""
        program = [sys.executable, str(HERE / "bitbake_library.py"), str(self.directory), command]
        done = subprocess.run(
            [*program, *arguments],
            env={"PATH": self._path, "HOME": str(self.directory), "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        last = done.stdout.strip().rpartition("\n")[2]
        value = json.loads(last) if last.startswith("{") else None
        return Done(done.returncode, value, done.stderr)
