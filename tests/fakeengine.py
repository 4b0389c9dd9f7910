"""A stand-in for Docker's event socket, for tests of who listens to it."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

HEADER = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"


def event(action: str = "die", project: str | None = "app", **fields: Any) -> bytes:
    """Return one line of the stream, about a container of a Compose project or of none."""
    attributes = {"com.docker.compose.project": project} if project else {"name": "x"}
    value = {"Type": "container", "Action": action, "Actor": {"Attributes": attributes}, **fields}
    return json.dumps(value).encode() + b"\n"


class FakeEngine:
    """Stands in for Docker's socket: takes one connection at a time and says what it is told."""

    def __init__(self, path: Path, greeting: bytes = b"") -> None:
        """Listen.

        Args:
            greeting: what everybody who connects is told first.
        """
        self.path = path
        self._greeting = greeting
        self.requests: list[bytes] = []
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen(4)
        self._connection: socket.socket | None = None
        self._accepted = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(65536) or b"\r\n\r\n"
                connection.sendall(self._greeting)
            except OSError:
                return
            self.requests.append(request)
            self._connection = connection
            self._accepted.set()

    def send(self, data: bytes) -> None:
        """Say something to who connected last."""
        assert self._accepted.wait(10), "nobody connected"
        assert self._connection is not None
        self._connection.sendall(data)

    def drop(self) -> None:
        """Close the connection and wait for another."""
        assert self._accepted.wait(10), "nobody connected"
        self._accepted.clear()
        assert self._connection is not None
        self._connection.close()

    def end(self) -> None:
        """Go away altogether."""
        self.path.unlink(missing_ok=True)
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        if self._connection is not None:
            self._connection.close()
