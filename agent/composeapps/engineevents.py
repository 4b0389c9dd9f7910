"""Docker's event stream for the resident part: standard library only."""

from __future__ import annotations

import json
import re
import socket
from urllib.parse import quote

from composeapps.errors import ConfigError

_ACCEPTED = re.compile(rb"HTTP/1\.[01] 200 ")
_EVENTS = {"type": ["container"], "event": ["die", "health_status", "destroy", "oom"]}


class EngineEvents:
    """Docker's event stream, read from its socket without any library."""

    def __init__(self, url: str) -> None:
        if not url.startswith("unix://"):
            raise ConfigError(f"engine.docker has to be a unix:// address, not {url}")
        self._path = url.removeprefix("unix://")
        self.socket: socket.socket | None = None
        #: The engine said that the events follow; one that only accepts may hang.
        self.answers = False
        self._buffer = b""

    def connect(self) -> socket.socket | None:
        """Open the stream and return its socket; None where the engine is not there."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(5.0)  # a live engine accepts at once
        query = quote(json.dumps(_EVENTS))
        request = f"GET /events?filters={query} HTTP/1.0\r\nHost: docker\r\n\r\n"
        try:
            connection.connect(self._path)
            connection.sendall(request.encode())
        except OSError:
            connection.close()
            return None
        connection.setblocking(False)
        self.socket, self.answers, self._buffer = connection, False, b""
        return connection

    def close(self) -> None:
        """Forget the connection."""
        if self.socket is not None:
            self.socket.close()
        self.socket, self.answers = None, False

    def read(self) -> tuple[bool, bool]:
        """Take what has come: (the stream still stands, something in it means trouble)."""
        assert self.socket is not None, "read follows connect"
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return True, False
        except OSError:
            data = b""
        if not data:
            return False, False
        lines = (self._buffer + data).split(b"\n")
        self._buffer = lines.pop()[-65536:]
        self.answers = self.answers or any(_ACCEPTED.match(line) for line in lines)
        return True, any(_is_trouble(line) for line in lines)


def _is_trouble(line: bytes) -> bool:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):  # HTTP's own header lines
        return False
    actor = event.get("Actor") if isinstance(event, dict) else None
    attributes = actor.get("Attributes") if isinstance(actor, dict) else None
    if not isinstance(attributes, dict) or "com.docker.compose.project" not in attributes:
        return False
    action = str(event.get("Action", ""))
    return not action.startswith("health_status") or action.endswith("unhealthy")
