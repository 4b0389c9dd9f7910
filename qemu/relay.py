"""The network between guest and this machine: one TCP relay per server, which can be made bad.

The machine runs in a network namespace of its own with nothing but loopback, so that its guest
reaches what is relayed, at ``image.HOST_ADDRESS``, and nothing else. The listening socket is
made in that namespace; connections are made from here.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

#: Seconds between looks at whether the relay was cut or closed.
_TICK = 0.2
_CHUNK = 16384
#: Makes the socket in the namespace it runs in, and hands it over.
_LISTEN = """\
import socket, sys
s = socket.create_server(("127.0.0.1", int(sys.argv[1])))
socket.send_fds(socket.socket(fileno=0), [b"x"], [s.fileno()])
"""


@dataclass
class Quality:
    """What the network is like; may be changed at any time."""

    #: False: connections are reset, new ones too.
    up: bool = True
    #: Seconds that every chunk is late, in each direction.
    delay: float = 0.0
    #: Bytes per second over one direction of one connection; 0 means no limit.
    rate: float = 0.0


class Relay:
    """Carries connections from port ``port`` of the guest's host to ``target`` on this machine."""

    def __init__(self, pid: int, port: int, target: tuple[str, int]) -> None:
        """Listen in the network namespace of the process ``pid``."""
        self.quality = Quality()
        #: Bytes that went to the guest so far.
        self.delivered = 0
        self._target = target
        self._closed = False
        ours, theirs = socket.socketpair()
        with ours, theirs:
            enter = ["nsenter", "-t", str(pid), "-n", "--", sys.executable, "-c", _LISTEN]
            subprocess.run([*enter, str(port)], check=True, stdin=theirs.fileno())
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        self._listener = socket.socket(fileno=descriptors[0])
        self._listener.settimeout(_TICK)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; connections are reset."""
        self._closed = True
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                guest, _ = self._listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._serve, args=(guest,), daemon=True).start()

    def _serve(self, guest: socket.socket) -> None:
        with guest:
            if not self.quality.up:
                _reset(guest)
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                _reset(guest)
                return
            with server, contextlib.suppress(OSError):
                self._carry(guest, server)

    def _carry(self, guest: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(guest, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, guest)
            while selector.get_map():
                events = selector.select(_TICK)
                if self._closed or not self.quality.up:
                    _reset(guest)
                    return
                for key, _ in events:
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    if not self._chunk(source, key.data, source is server):
                        selector.unregister(source)

    def _chunk(self, source: socket.socket, target: socket.socket, to_guest: bool) -> bool:
        data = source.recv(_CHUNK)
        if not data:
            target.shutdown(socket.SHUT_WR)
            return False
        quality = self.quality
        time.sleep(quality.delay + (len(data) / quality.rate if quality.rate else 0))
        target.settimeout(30)
        target.sendall(data)
        if to_guest:
            self.delivered += len(data)
        return True


def _reset(connection: socket.socket) -> None:
    """Let the close that follows send RST, not FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
