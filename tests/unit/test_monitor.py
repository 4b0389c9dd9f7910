"""QEMU's monitor, which may tell an event before it greets: seen once in some hundred boots.

What answers here is a fake, because the moment cannot be had at will.
"""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from qemu.qmp import ConnectError

import monitor

EVENT = {"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 0}}
GREETING = {"QMP": {"version": {"qemu": {"major": 10}, "package": ""}, "capabilities": []}}


def fake_monitor(path: Path, early: int) -> None:
    """Serve connections one by one; the first ``early`` ones get an event before the greeting."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        for number in range(early + 1):
            connection, _ = server.accept()

            def say(*lines: object, to: socket.socket = connection) -> None:
                to.sendall("".join(json.dumps(line) + "\r\n" for line in lines).encode())

            with connection:
                if number < early:
                    say(EVENT, GREETING)
                    continue
                say(GREETING)
                while request := connection.recv(4096):  # the next one waits for its answer
                    say({"return": {"status": "running"}, "id": json.loads(request).get("id")})

    threading.Thread(target=serve, daemon=True).start()


@pytest.mark.parametrize("early", [0, 1, 2])
def test_an_event_before_the_greeting_is_not_the_end(tmp_path: Path, early: int) -> None:
    fake_monitor(tmp_path / "qmp.socket", early)
    with monitor.connected(tmp_path / "qmp.socket") as protocol:
        assert protocol.cmd("query-status") == {"status": "running"}


def test_one_that_never_greets_is_an_error(tmp_path: Path) -> None:
    fake_monitor(tmp_path / "qmp.socket", 9)
    with (
        pytest.raises(ConnectError, match="Greeting"),
        monitor.connected(tmp_path / "qmp.socket"),
    ):
        pass
