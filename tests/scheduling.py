"""How tests are shared out among the processes of pytest-xdist."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


class WholeModules(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a process whole modules, whose tests share devices and build on each other.

    Virtual machines take both cores: only one process has them.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "qemu" if module.startswith("tests/qemu/") else module


class Plugin:
    """Tells pytest-xdist how (its ``--dist`` has no such way)."""

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> WholeModules:
        """Return a scheduler for one run."""
        return WholeModules(config, log)
