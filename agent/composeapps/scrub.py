"""Deep verification over time: sealed layers that the kernel does not check are hashed, slowly.

All of them once in ``verify.interval``; after an unclean shutdown first those that were written in
the boot that it ended. What is found good gets fs-verity where that can be had.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from composeapps import verity
from composeapps.device import Device
from composeapps.digests import CHUNK
from composeapps.store import SealedLayer, parse_layer_name

log = logging.getLogger(__name__)

#: State keys: when the last whole pass ended (seconds since 1970), the last layer of an unfinished
#: one, layers that were found damaged, and why the kernel checks nothing here.
DONE, POSITION, DAMAGED = "scrubbed", "scrub-position", "scrub-damaged"
NO_VERITY = "no-fs-verity"


@dataclass
class Scrub:
    """What a run did."""

    hashed: int = 0
    bytes: int = 0
    #: Layers that the kernel checks at every read.
    checked_by_kernel: int = 0
    no_verity: str = ""
    damaged: list[SealedLayer] = field(default_factory=list)


def scrub(device: Device) -> Scrub:
    """Hash what is due, at ``verify.rate`` and in the scheduler's idle class.

    No lock is held. It may be interrupted: the next run goes on with the layer that was begun.
    """
    found = Scrub(no_verity=device.state.get(NO_VERITY))
    with _Reader(device.settings.verify.rate) as reader:
        for path in filter(None, device.state.get(DAMAGED).split("\n")):
            layer = parse_layer_name(Path(path))
            if layer is not None:
                _look(device, reader, layer, found)
        since = device.suspect_since
        if since:
            for layer in _written_since(device, since):
                _look(device, reader, layer, found)
            device.forget_suspects(since)
        if _is_due(device):
            _whole_pass(device, reader, found)
    return found


def forget_damaged(device: Device) -> None:
    """Take in that what was found damaged is dropped."""
    device.state.put(DAMAGED, "")


def _is_due(device: Device) -> bool:
    if device.state.get(POSITION):
        return True
    last, now = float(device.state.get(DONE) or 0), time.time()
    if not 0 < last <= now:  # never, or by a clock that was ahead: begin to count
        device.state.put(DONE, str(now))
        return False
    return now - last > device.settings.verify.interval


def _whole_pass(device: Device, reader: _Reader, found: Scrub) -> None:
    layers = [layer for store in device.stores.all for layer in store.all_layers()]
    position = device.state.get(POSITION)
    for layer in sorted(layers, key=lambda one: str(one.path)):
        if str(layer.path) > position:
            device.state.put(POSITION, str(layer.path))  # before: one that cannot be read ends none
            _look(device, reader, layer, found)
    device.state.put(DONE, str(time.time()))
    device.state.put(POSITION, "")


def _written_since(device: Device, since: float) -> Iterator[SealedLayer]:
    for layer in device.stores.data.all_layers():
        if os.stat(layer.path).st_ctime >= since:
            yield layer


def _look(device: Device, reader: _Reader, layer: SealedLayer, found: Scrub) -> None:
    if verity.is_enabled(layer.path):
        found.checked_by_kernel += 1
        return
    try:
        digest, size = reader.hash(layer.path)
        found.bytes += size
        good = digest == layer.digest
    except FileNotFoundError:  # pruned meanwhile
        return
    except OSError as error:
        log.error("%s: %s", layer.path, error.strerror)
        good = False
    found.hashed += 1
    if not good and layer not in found.damaged:
        found.damaged.append(layer)
        device.state.put(DAMAGED, "\n".join(str(one.path) for one in found.damaged))
    elif layer.path.is_relative_to(device.data):
        found.no_verity = _enable(device, layer)


def _enable(device: Device, layer: SealedLayer) -> str:
    try:
        why = verity.enable(layer.path)
    except OSError as error:
        why = f"{layer.path}: {error.strerror}"
    if why != device.state.get(NO_VERITY):
        device.state.put(NO_VERITY, why)
    return why


class _Reader:
    """Hashes files in a thread that runs when nobody else wants the processor.

    The scheduling class is a thread's own, and cannot be left again without CAP_SYS_NICE
    (sched(7)): what is damaged has to be mended at the usual pace.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, initializer=_be_idle)

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()  # an interrupted hash is of no use
        self._pool.shutdown()

    def hash(self, path: Path) -> tuple[str, int]:
        """Return a file's digest and size; raises OSError where the medium fails."""
        return self._pool.submit(self._hash, path).result()

    def _hash(self, path: Path) -> tuple[str, int]:
        hasher = hashlib.sha256()
        begun, done = time.monotonic(), 0
        with path.open("rb", buffering=0) as file:
            while not self._stop.is_set() and (chunk := file.read(CHUNK)):
                hasher.update(chunk)
                done += len(chunk)
                if self._rate:
                    self._stop.wait(max(0.0, begun + done / self._rate - time.monotonic()))
        return f"sha256:{hasher.hexdigest()}", done


def _be_idle() -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except PermissionError as error:  # the rate is bounded in any case
        log.info("the idle class cannot be used: %s", error.strerror)
