"""Packets between a guest and its network: carried whole, in order, and a share of them lost."""

from __future__ import annotations

import socket
import struct

import pytest

from packets import Packets

FRAMES = [bytes([number]) * (60 + number) for number in range(200)]


def carried(packets: Packets) -> list[bytes]:
    """Send all frames, in pieces that do not fit them; return those that arrive."""
    guest, source = socket.socketpair()
    target, network = socket.socketpair()
    packets.carry(source, target)
    stream = b"".join(struct.pack(">I", len(frame)) + frame for frame in FRAMES)
    with guest, network:
        for at in range(0, len(stream), 777):
            guest.sendall(stream[at : at + 777])
        guest.shutdown(socket.SHUT_WR)
        found = []
        with network.makefile("rb") as file:
            while head := file.read(4):
                found.append(file.read(struct.unpack(">I", head)[0]))
    return found


def test_all_arrive_where_none_is_lost() -> None:
    packets = Packets()
    assert carried(packets) == FRAMES
    assert (packets.carried, packets.lost) == (200, 0)


@pytest.mark.parametrize("loss", [0.2, 0.5])
def test_a_share_is_lost_and_the_rest_arrives_whole_and_in_order(loss: float) -> None:
    packets = Packets(seed=1)
    packets.loss = loss
    found = carried(packets)
    assert [frame for frame in FRAMES if frame in found] == found
    assert packets.lost == 200 - len(found)
    assert abs(packets.lost / 200 - loss) < 0.1


def test_nothing_arrives_where_all_is_lost() -> None:
    packets = Packets()
    packets.loss = 1.0
    assert carried(packets) == []
