"""A disk whose power can be cut: what the guest did not flush is really lost.

A host keeps what a killed QEMU wrote, so killing it loses nothing. So QEMU writes to an overlay
that is thrown away, and to a log of every write and flush; after the cut the log is replayed onto
the disk up to the last flush that was completed. What came later was never promised: any part of
it may be there, in any order, torn at any sector that the medium writes as one.

Source of the log's format: Linux, Documentation/admin-guide/device-mapper/log-writes.rst and
drivers/md/dm-log-writes.c; QEMU writes the same (block/blklogwrites.c).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAGIC = 0x6A736677736872
_HEADER = struct.Struct("<QQQQ")
_SUPER = struct.Struct("<QQQI")
SECTOR = 512
#: Bytes that the medium writes as one; a write that power interrupts is torn between these.
ATOM = 4096
FLUSH, FUA, DISCARD = 1, 2, 4
#: Of the writes after the last flush so much is kept; which of these it is is a matter of chance.
SHARES = (0.0, 0.2, 0.5, 0.8, 1.0)


@dataclass(frozen=True)
class Entry:
    """One write, discard or flush; ``data`` lies in the log."""

    offset: int
    length: int
    flags: int
    #: Where the data begins in the log; a discard has none.
    at: int


@dataclass(frozen=True)
class Loss:
    """What a cut did, in numbers of writes."""

    durable: int
    #: After the last flush: those that are there all the same, and those that are not.
    kept: int
    lost: int


class Disk:
    """One raw disk image; its file is what the medium holds while the machine is off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._overlay = path.with_suffix(".overlay")
        self.log = path.with_suffix(".log")

    def copy(self, path: Path) -> Disk:
        """Return a copy, sparse as this one; the machine has to be off."""
        command = ["cp", "--sparse=always", "--reflink=auto", str(self.path), str(path)]
        subprocess.run(command, check=True)
        return Disk(path)

    def arm(self) -> list[str]:
        """Prepare for one run of a machine; return QEMU's options for a node named ``disk``."""
        self._overlay.unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)
        self.log.touch()
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(self.path)]
        subprocess.run([*create, str(self._overlay)], check=True)
        # Flushes matter in the log only: the host does not lose power.
        overlay = "driver=qcow2,node-name=overlay,cache.no-flush=on,file.driver=file,"
        overlay += f"file.filename={self._overlay},file.cache.no-flush=on"
        log = f"driver=file,node-name=log,filename={self.log},cache.no-flush=on"
        disk = f"driver=blklogwrites,node-name=disk,file=overlay,log=log,log-sector-size={SECTOR}"
        return ["-blockdev", overlay, "-blockdev", log, "-blockdev", disk]

    def settle(self, rng: random.Random | None = None) -> Loss:
        """Bring the medium to where the run that ended left it, and forget the run.

        Args:
            rng: decides what of the writes after the last flush is there; without it all of
                them are, as after a machine that was shut down.
        """
        if not self.log.exists() or self.log.stat().st_size < SECTOR:
            return Loss(0, 0, 0)
        with self._mapped() as log, self.path.open("r+b") as disk:
            loss = _replay(log, disk.fileno(), rng)
        self._overlay.unlink(missing_ok=True)
        self.log.unlink()
        return loss

    def entries(self) -> list[Entry]:
        """Return what the run that ended did, oldest first; empty after ``settle``."""
        with self._mapped() as log:
            return list(read_log(log))

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[mmap.mmap]:
        with (
            self.log.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as log,
        ):
            yield log

    def remove(self) -> None:
        """Remove all of its files."""
        for path in (self.path, self._overlay, self.log):
            path.unlink(missing_ok=True)


def read_log(log: mmap.mmap | bytes) -> Iterator[Entry]:
    """Read entries up to the first that was not written as a whole.

    The count in the log's first sector is behind where QEMU was killed, so it is not asked.

    Raises:
        ValueError: it is no such log.
    """
    magic, version, _, sector = _SUPER.unpack_from(log)
    if (magic, version, sector) != (_MAGIC, 1, SECTOR):
        raise ValueError("this is no log of writes with sectors of 512 bytes")
    at = SECTOR
    while at + SECTOR <= len(log):
        first, count, flags, length = _HEADER.unpack_from(log, at)
        if not (count or flags):
            return
        at += SECTOR
        size = 0 if flags & DISCARD else count * SECTOR
        if at + size > len(log) or length not in (0, count * SECTOR):
            return
        yield Entry(first * SECTOR, count * SECTOR, flags, at)
        at += size


def _replay(log: mmap.mmap, disk: int, rng: random.Random | None) -> Loss:
    entries = list(read_log(log))
    flushes = [number for number, entry in enumerate(entries) if entry.flags & FLUSH]
    promised = flushes[-1] + 1 if flushes and rng else 0 if rng else len(entries)
    for entry in entries[:promised]:
        _apply(log, disk, entry)
    later = [entry for entry in entries[promised:] if entry.length]
    kept = _some(later, rng) if rng else []
    for entry in kept:
        for piece in _torn(entry, rng) if rng else [entry]:
            _apply(log, disk, piece)
    return Loss(promised - len(flushes), len(kept), len(later) - len(kept))


def _some(entries: list[Entry], rng: random.Random) -> list[Entry]:
    """Return those of the unflushed writes that reached the medium, in the order they did."""
    share = rng.choice(SHARES)
    kept = [entry for entry in entries if rng.random() < share]
    if rng.random() < 0.5:
        rng.shuffle(kept)
    return kept


def _torn(entry: Entry, rng: random.Random) -> list[Entry]:
    """Return the pieces of a write that were written; now and then not all."""
    if entry.flags & DISCARD or entry.length <= ATOM or rng.random() < 0.8:
        return [entry]
    share = rng.random()
    pieces = []
    for begin in range(0, entry.length, ATOM):
        if rng.random() < share:
            length = min(ATOM, entry.length - begin)
            pieces.append(Entry(entry.offset + begin, length, entry.flags, entry.at + begin))
    return pieces


def _apply(log: mmap.mmap, disk: int, entry: Entry) -> None:
    if entry.flags & DISCARD:
        step = 1024 * 1024
        for begin in range(0, entry.length, step):
            os.pwrite(disk, bytes(min(step, entry.length - begin)), entry.offset + begin)
    elif entry.length:
        os.pwrite(disk, log[entry.at : entry.at + entry.length], entry.offset)
