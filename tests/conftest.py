"""What all tests share: the engine testbed, the demo's images, a seed that is always printed."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from seed import SEED

from demo import images
from testbed import Testbed

HERE = Path(__file__).resolve().parent
IN_CI = bool(os.environ.get("CI"))
#: Set in each process of pytest-xdist.
WORKER = "PYTEST_XDIST_WORKER"
#: Modules and folders; style fails soonest.
LONGEST_FIRST = (
    "test_style.py", "test_power_cut.py", "test_boot.py", "qemu", "crash", "docker", "yocto",
)  # fmt: skip
#: Property of a test whose value is printed at the end.
TOLD = "told"

# Machines differ in speed by more than any deadline forgives; blobs make a failure repeatable.
settings.register_profile("composeapps", deadline=None, print_blob=True)
settings.load_profile("composeapps")


def pytest_report_header() -> str:
    """Say what a failure needs to be repeated."""
    engine = os.environ.get("ENGINE") or "trixie"
    return f"composeapps: SEED={SEED} ENGINE={engine}"


def pytest_configure(config: pytest.Config) -> None:
    """Share tests out in a way of ours, where there is something to share them out among.

    The agent's unit tests run on a device too, which has no pytest-xdist.
    """
    if config.pluginmanager.hasplugin("xdist"):
        from scheduling import Plugin

        config.pluginmanager.register(Plugin(), "whole-modules")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need the engine by where they are; side by side, begin with the longest."""
    for item in items:
        if _folder(item) in ("docker", "crash", "qemu"):
            item.add_marker("docker")
    if WORKER in os.environ:
        items.sort(key=_rank)


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""


def _rank(item: pytest.Item) -> int:
    known = [name for name in (item.path.name, _folder(item)) if name in LONGEST_FIRST]
    return LONGEST_FIRST.index(known[0]) if known else len(LONGEST_FIRST)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have to tell, whichever process they ran in (``record_property``)."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == TOLD:
                terminalreporter.write_line(str(value))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot work here, with the reason; in CI nothing is skipped for it."""
    if item.get_closest_marker("docker") and os.geteuid() != 0 and not IN_CI:
        pytest.skip("needs root for namespaces and mounts: run make test as root")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Return random numbers that depend on the printed seed and the test's name only."""
    return random.Random(f"{SEED} {request.node.nodeid}")


@pytest.fixture(scope="session")
def testbed_factory() -> Iterator[Callable[..., Testbed]]:
    """Return a function that starts a new testbed, its engine not started; all end with the run.

    Not below pytest's own directory: that may be a tmpfs, and an engine's data fills memory.
    """
    made: list[Testbed] = []

    def make(suite: str = "") -> Testbed:
        directory = Path(tempfile.mkdtemp(prefix="composeapps-bed-", dir="/var/tmp"))
        bed = Testbed(directory, suite)
        made.append(bed)
        bed.start()
        return bed

    yield make
    for bed in made:
        bed.stop()
        shutil.rmtree(bed.directory, ignore_errors=True)


@pytest.fixture(scope="module")
def testbed(testbed_factory: Callable[..., Testbed]) -> Iterator[Testbed]:
    """Return a testbed of this module's own with its engine started and empty."""
    bed = testbed_factory()
    bed.engine("start")
    yield bed
    bed.stop()
    shutil.rmtree(bed.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def demo_layout() -> Path:
    """Return the OCI image layout with the demo's images; read only, copy it to change it."""
    return images.layout()
