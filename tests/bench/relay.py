"""A TCP relay that counts what really goes over the wire, TLS handshakes apart.

    python relay.py TARGET_PORT OUTPUT

Listens on a free port of 127.0.0.1 and prints it. After each connection ``OUTPUT`` holds JSON: the
bytes of all connections so far, and those that came after a handshake.

TLS 1.3 hides what a record is (RFC 8446, 5.2): the client's first record of type application data
is its Finished, the end of the handshake. What follows it on either side, session tickets and
closing alerts included, counts as after the handshake.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

APPLICATION_DATA = 23
HEADER = 5


@dataclass
class Count:
    """Bytes of TLS 1.3 connections in both directions."""

    connections: int = 0
    total: int = 0
    after_handshake: int = 0


class Connection:
    """Follows the records of one TLS 1.3 connection."""

    def __init__(self, count: Count) -> None:
        count.connections += 1
        self._count = count
        self._finished = False
        self._pending = b""

    def from_server(self, data: bytes) -> None:
        """Take in what the server sent."""
        self._count.total += len(data)
        if self._finished:
            self._count.after_handshake += len(data)

    def from_client(self, data: bytes) -> None:
        """Take in what the client sent."""
        self._count.total += len(data)
        if self._finished:
            self._count.after_handshake += len(data)
            return
        self._pending += data
        while len(self._pending) >= HEADER:
            end = HEADER + int.from_bytes(self._pending[3:5], "big")
            if len(self._pending) < end:
                return
            kind, self._pending = self._pending[0], self._pending[end:]
            if kind == APPLICATION_DATA:
                self._finished = True
                self._count.after_handshake += len(self._pending)
                return


class Relay:
    """Relays connections to a port of 127.0.0.1, each in threads of its own."""

    def __init__(self, target: int, output: Path) -> None:
        self._target = target
        self._output = output
        self._count = Count()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Accept for ever."""
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._target))
        with self._lock:
            connection = Connection(self._count)
        back = threading.Thread(target=self._copy, args=(server, client, connection.from_server))
        back.start()
        self._copy(client, server, connection.from_client)
        back.join()
        client.close()
        server.close()
        with self._lock:
            temporary = self._output.with_suffix(".tmp")
            temporary.write_text(json.dumps(vars(self._count)))
            temporary.replace(self._output)

    def _copy(self, source: socket.socket, sink: socket.socket, note: object) -> None:
        assert callable(note)
        try:
            while data := source.recv(65536):
                with self._lock:
                    note(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # one of them is gone, and so is the connection
            return


def main() -> None:
    """Relay until killed."""
    relay = Relay(int(sys.argv[1]), Path(sys.argv[2]))
    print(relay.port, flush=True)
    relay.serve()


if __name__ == "__main__":
    main()
