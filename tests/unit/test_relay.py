"""The relay between guest and this machine: carries, is late, is cut."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from relay import Relay

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="entering a namespace needs root")


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """Return where a server answers each connection with 64 KiB and what it was told."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(connection.recv(100) + bytes(65536))

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()
    listener.close()


@pytest.fixture
def relay(server: tuple[str, int]) -> Iterator[tuple[Relay, int]]:
    """Return a relay in this process's own namespace, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    made = Relay(os.getpid(), port, server)
    yield made, port
    made.close()


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"hello")
        data = b""
        while piece := connection.recv(65536):
            data += piece
        return data


def test_it_carries_both_ways(relay: tuple[Relay, int]) -> None:
    assert ask(relay[1]) == b"hello" + bytes(65536)
    assert relay[0].delivered == 65541


def test_a_cut_network_resets_and_comes_back(relay: tuple[Relay, int]) -> None:
    relay[0].quality.up = False
    with pytest.raises(ConnectionError):
        ask(relay[1])
    relay[0].quality.up = True
    assert len(ask(relay[1])) == 65541


def test_a_connection_under_way_is_cut(relay: tuple[Relay, int]) -> None:
    relay[0].quality.rate = 20000
    threading.Timer(0.5, setattr, (relay[0].quality, "up", False)).start()
    with pytest.raises(ConnectionError):
        ask(relay[1])


def test_it_is_as_slow_as_it_has_to_be(relay: tuple[Relay, int]) -> None:
    relay[0].quality.rate = 131072
    begun = time.monotonic()
    ask(relay[1])
    assert time.monotonic() - begun >= 0.5
