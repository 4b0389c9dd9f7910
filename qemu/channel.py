"""Commands to a guest by a virtio-serial port; the other end is ``guest/serve.py``."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


class MachineError(Exception):
    """The machine did not do what it had to; the message holds the end of its console."""


@dataclass(frozen=True)
class Result:
    """How a command in the guest ended."""

    code: int
    out: str
    err: str


class Channel:
    """Sends commands, keeps their answers until they are asked for."""

    def __init__(self, connection: socket.socket, alive: Callable[[], bool]) -> None:
        """Take over a connected socket; ``alive`` says whether waiting makes sense."""
        self._connection = connection
        self._alive = alive
        self._answers: dict[int, dict[str, Any]] = {}
        self._news = threading.Condition()
        self._next = 0
        self._closed = False
        threading.Thread(target=self._receive, daemon=True).start()

    def close(self) -> None:
        """Give the channel back."""
        self._closed = True
        with contextlib.suppress(OSError):  # the other end may be gone
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def send(self, argv: tuple[str, ...], data: bytes, timeout: float) -> int:
        """Have a command run and do not wait for it; return its number.

        Raises:
            MachineError: the machine is off.
        """
        self._next += 1
        request = {"id": self._next, "argv": argv, "timeout": timeout}
        request["stdin"] = base64.b64encode(data).decode()
        try:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise MachineError(f"the machine went away: {error}") from error
        return self._next

    def answer(self, number: int, timeout: float) -> Result | None:
        """Return how a command ended; None where that is not known after so many seconds."""
        with self._news:
            self._news.wait_for(lambda: number in self._answers or self._gone(), timeout)
            found = self._answers.pop(number, None)
        if found is None:
            return None
        out, err = (base64.b64decode(found[name]).decode("utf-8", "replace") for name in _TEXTS)
        return Result(int(found["code"]), out, err)

    def _gone(self) -> bool:
        return self._closed or not self._alive()

    def _receive(self) -> None:
        for line in lines(self._connection):
            answer = json.loads(line)
            with self._news:
                self._answers[answer["id"]] = answer
                self._news.notify_all()
        self._closed = True
        with self._news:
            self._news.notify_all()


_TEXTS = ("out", "err")


def lines(connection: socket.socket) -> Iterator[bytes]:
    """Yield the lines that come, to the connection's end however it ends."""
    buffer = b""
    with contextlib.suppress(OSError):
        while data := connection.recv(65536):
            *whole, buffer = (buffer + data).split(b"\n")
            yield from whole
    if buffer:
        yield buffer
