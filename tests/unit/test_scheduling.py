"""Which module a process of pytest-xdist gets next."""

from __future__ import annotations

import pytest
from scheduling import choose

BOOT, CUT = "tests/qemu/test_boot.py", "tests/qemu/test_power_cut.py"
CRASH, UNIT = "tests/crash/test_crash.py", "tests/unit/test_oci.py"


@pytest.mark.parametrize(
    ("left", "machines", "chosen"),
    [
        ([BOOT, CUT, CRASH, UNIT], True, BOOT),
        ([BOOT, CUT, CRASH, UNIT], False, CRASH),
        ([CUT, UNIT], False, UNIT),
        ([CUT], False, CUT),
        ([CRASH, UNIT], True, CRASH),
    ],
)
def test_one_process_has_the_machines_while_others_have_something_else(
    left: list[str], machines: bool, chosen: str
) -> None:
    assert choose(left, machines) == chosen
