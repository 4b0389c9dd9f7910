"""QEMU's monitor (QMP), by the library of QEMU's makers: one connection at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qemu.qmp import ConnectError
from qemu.qmp.legacy import QEMUMonitorProtocol
from qemu.qmp.qmp_client import GreetingError


@contextlib.contextmanager
def connected(path: Path) -> Iterator[QEMUMonitorProtocol]:
    """Connect to the monitor of a socket.

    Raises:
        qemu.qmp.ConnectError: nobody is there, or it does not speak as a monitor does.
    """
    protocol = _connect(path)
    try:
        yield protocol
    finally:
        protocol.close()


def _connect(path: Path) -> QEMUMonitorProtocol:
    """Connect; a QEMU that has just begun may tell an event before its greeting (seen once)."""
    for left in (2, 1, 0):
        protocol = QEMUMonitorProtocol(str(path))
        try:
            protocol.connect(negotiate=True)
            break
        except ConnectError as error:
            if not left or not isinstance(error.exc, GreetingError):
                raise
    return protocol


def wait_for_event(path: Path, name: str, timeout: float) -> dict[str, Any]:
    """Wait for an event and return its data.

    Raises:
        TimeoutError: it did not come within so many seconds.
    """
    deadline = time.monotonic() + timeout
    with connected(path) as protocol:
        while True:
            event = protocol.pull_event(wait=max(deadline - time.monotonic(), 0.01))
            if event and event["event"] == name:
                return dict(event["data"])
