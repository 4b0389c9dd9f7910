"""How tests are shared out among the processes of pytest-xdist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


def has_machine(module: str) -> bool:
    """Say whether a module's tests boot virtual machines."""
    return module.startswith("tests/qemu/")


def choose(modules: Iterable[str], machines: bool) -> str:
    """Return the first module with or without virtual machines; where there is none, the first."""
    left = list(modules)
    return next((module for module in left if has_machine(module) == machines), left[0])


class WholeModules(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a process whole modules, whose tests share devices and build on each other.

    A virtual machine can take both cores: one process has them, until the others have nothing else
    left to do.
    """

    _has_machines: object = None

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0]

    def _assign_work_unit(self, node: Any) -> None:
        if self._has_machines is None:
            self._has_machines = node
        chosen = choose(self.workqueue, node is self._has_machines)
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)


class Plugin:
    """Tells pytest-xdist how (its ``--dist`` has no such way)."""

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> WholeModules:
        """Return a scheduler for one run."""
        return WholeModules(config, log)
