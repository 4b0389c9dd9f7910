"""The packets between the guest's network card and its network, one by one; some are lost.

QEMU hands every packet over and takes back what is to arrive (``filter-redirector``). What is lost
is decided by a seed. The relay (``relay.py``) is what makes connections late, slow, or cut.

Source of the format: QEMU, net/filter-mirror.c (four bytes of length, big-endian, then the frame).
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading

#: Sockets of the machine by direction, named as QEMU names a netdev's queues: ``rx`` is what the
#: guest sends. Packets leave by ``out`` and come back by ``in``.
QUEUES = ("rx", "tx")
_LENGTH = struct.Struct(">I")


def options(directory: str) -> list[str]:
    """Return QEMU's options that hand over the packets of the netdev ``net`` by sockets there."""
    found = []
    for queue in QUEUES:
        for way in ("out", "in"):
            path = f"{directory}/{name(queue, way)}"
            found += ["-chardev", f"socket,id={queue}-{way},path={path},server=on,wait=off"]
        filtered = f"filter-redirector,id=lossy-{queue},netdev=net,queue={queue}"
        found += ["-object", f"{filtered},outdev={queue}-out,indev={queue}-in"]
    return found


def name(queue: str, way: str) -> str:
    """Return the name of a socket."""
    return f"{queue}-{way}.socket"


class Packets:
    """Carries packets and loses a share of them."""

    def __init__(self, seed: int = 0) -> None:
        #: Share of packets that are lost, 0 to 1, in each direction; may be changed at any time.
        self.loss = 0.0
        #: Packets so far.
        self.carried = self.lost = 0
        self._random = random.Random(seed)
        self._gap = 0
        self._lock = threading.Lock()

    def carry(self, source: socket.socket, target: socket.socket) -> None:
        """Carry one direction until the machine is off, in a thread of its own."""
        threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        # An error is the machine's end, whose power may go in the middle of a packet.
        with source, target, source.makefile("rb") as packets, contextlib.suppress(OSError):
            while len(head := packets.read(_LENGTH.size)) == _LENGTH.size:
                packet = packets.read(_LENGTH.unpack(head)[0])
                if not self._is_lost():
                    target.sendall(head + packet)

    def _is_lost(self) -> bool:
        """Say whether the next packet is lost: gaps are random, and bounded by twice their mean."""
        with self._lock:
            lost = False
            if self.loss:
                self._gap = self._gap or self._random.randint(1, round(2 / self.loss) - 1)
                self._gap -= 1
                lost = self._gap == 0
            self.lost += lost
            self.carried += not lost
        return lost
