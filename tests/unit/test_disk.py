"""The disk that loses what was not flushed: reading QEMU's log of writes, and replaying it."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from disk import ATOM, DISCARD, FLUSH, SECTOR, Disk, Loss, read_log

MAGIC = 0x6A736677736872
SUPER = struct.pack("<QQQI", MAGIC, 1, 0, SECTOR).ljust(SECTOR, b"\0")
SIZE = 64 * ATOM


def write(block: int, byte: int, blocks: int = 1) -> bytes:
    """Return a log entry: blocks of 4096 bytes, filled with one byte."""
    sectors = blocks * ATOM // SECTOR
    data = bytes([byte]) * blocks * ATOM
    header = struct.pack("<QQQQ", block * ATOM // SECTOR, sectors, 0, len(data))
    return header.ljust(SECTOR, b"\0") + data


def discard(block: int) -> bytes:
    """Return the entry of a block that is discarded."""
    count = ATOM // SECTOR
    header = struct.pack("<QQQQ", block * count, count, DISCARD, ATOM)
    return header.ljust(SECTOR, b"\0")


FLUSHED = struct.pack("<QQQQ", 0, 0, FLUSH, 0).ljust(SECTOR, b"\0")


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Return a disk of zeros."""
    (tmp_path / "disk.raw").write_bytes(bytes(SIZE))
    return Disk(tmp_path / "disk.raw")


def run(disk: Disk, *log: bytes) -> None:
    """Let a machine have written this log."""
    disk.path.with_suffix(".log").write_bytes(SUPER + b"".join(log))


def blocks(disk: Disk) -> list[int]:
    """Return the first byte of each block."""
    return list(disk.path.read_bytes()[::ATOM])


def test_what_was_flushed_is_there_and_nothing_else_has_to_be(disk: Disk) -> None:
    log = [write(0, 1), write(1, 2), FLUSHED, write(1, 3), write(2, 4)]
    seen = set()
    for seed in range(60):
        disk.path.write_bytes(bytes(SIZE))
        run(disk, *log)
        loss = disk.settle(random.Random(seed))
        assert loss.durable == 2 and loss.kept + loss.lost == 2
        found = blocks(disk)
        assert found[0] == 1 and found[1] in (2, 3) and found[2] in (0, 4)
        seen.add(tuple(found[:3]))
    assert len(seen) == 4, "every legal outcome happens"


def test_order_between_flushes_is_free(disk: Disk) -> None:
    seen = set()
    for seed in range(80):
        disk.path.write_bytes(bytes(SIZE))
        run(disk, FLUSHED, write(0, 1), write(0, 2))
        disk.settle(random.Random(seed))
        seen.add(blocks(disk)[0])
    assert seen == {0, 1, 2}


def test_a_write_may_be_torn_between_atoms_but_not_in_one(disk: Disk) -> None:
    torn = set()
    for seed in range(200):
        disk.path.write_bytes(bytes(SIZE))
        run(disk, FLUSHED, write(0, 7, blocks=4))
        disk.settle(random.Random(seed))
        data = disk.path.read_bytes()[: 4 * ATOM]
        pieces = [data[at : at + ATOM] for at in range(0, len(data), ATOM)]
        assert all(len(set(piece)) == 1 for piece in pieces)
        torn.add(tuple(piece[0] for piece in pieces))
    assert (0, 0, 0, 0) in torn and (7, 7, 7, 7) in torn and len(torn) > 4


def test_a_seed_gives_the_same_loss_again(disk: Disk) -> None:
    log = [write(number, number + 1) for number in range(20)]
    outcomes = []
    for _ in range(2):
        disk.path.write_bytes(bytes(SIZE))
        run(disk, *log)
        disk.settle(random.Random(5))
        outcomes.append(blocks(disk))
    assert outcomes[0] == outcomes[1]


def test_a_shut_down_machine_loses_nothing(disk: Disk) -> None:
    run(disk, write(0, 1), FLUSHED, write(1, 2), discard(0))
    disk.settle()
    assert blocks(disk)[:2] == [0, 2]
    assert disk.settle(random.Random(1)) == Loss(0, 0, 0)


def test_an_entry_that_qemu_did_not_finish_ends_the_log() -> None:
    whole = SUPER + write(0, 1) + FLUSHED
    assert len(list(read_log(whole + write(1, 2)))) == 3
    for cut in (SECTOR - 1, SECTOR, SECTOR + 100):
        assert len(list(read_log(whole + write(1, 2)[:cut]))) == 2
    assert len(list(read_log(whole + bytes(SECTOR) + write(1, 2)))) == 2
    with pytest.raises(ValueError, match="no log of writes"):
        list(read_log(bytes(4096)))
