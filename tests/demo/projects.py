"""The demo's Compose projects, each in the version that a test or the demo asks for."""

from __future__ import annotations

import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: Versions that become healthy, and what the others do.
WEB_GOOD = (1, 2)
WEB_UNHEALTHY = 3
WEB_ENDS_AT_START = 4
TELEMETRY_GOOD = (1, 2)
#: Small projects, one Compose feature each.
SMALL = HERE / "compose"


def write_project(name: str, version: int, directory: Path) -> Path:
    """Write ``web`` or ``telemetry`` in one version to ``directory / name``, anew; return it."""
    target = directory / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(HERE / name, target)
    (target / ".env").write_text(f"VERSION={version}\n")
    return target
