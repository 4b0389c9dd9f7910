"""Deep verification over time: sealed layers that the kernel does not check are hashed, slowly.

All of them once in ``verify.interval``; after an unclean shutdown first those that were written in
the boot that it ended. What is found good gets fs-verity where that can be had.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    with _idle():
        for path in filter(None, device.state.get(DAMAGED).split("\n")):
            layer = parse_layer_name(Path(path))
            if layer is not None:
                _look(device, layer, found)
        since = device.suspect_since
        if since:
            for layer in _written_since(device, since):
                _look(device, layer, found)
            device.forget_suspects(since)
        if _is_due(device):
            _whole_pass(device, found)
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


def _whole_pass(device: Device, found: Scrub) -> None:
    layers = [layer for store in device.stores.all for layer in store.all_layers()]
    position = device.state.get(POSITION)
    for layer in sorted(layers, key=lambda one: str(one.path)):
        if str(layer.path) > position:
            device.state.put(POSITION, str(layer.path))  # before: one that cannot be read ends none
            _look(device, layer, found)
    device.state.put(DONE, str(time.time()))
    device.state.put(POSITION, "")


def _written_since(device: Device, since: float) -> Iterator[SealedLayer]:
    for layer in device.stores.data.all_layers():
        if os.stat(layer.path).st_ctime >= since:
            yield layer


def _look(device: Device, layer: SealedLayer, found: Scrub) -> None:
    if verity.is_enabled(layer.path):
        found.checked_by_kernel += 1
        return
    try:
        good = _hash(layer, device.settings.verify.rate, found) == layer.digest
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


def _hash(layer: SealedLayer, rate: int, found: Scrub) -> str:
    hasher = hashlib.sha256()
    begun, done = time.monotonic(), 0
    with layer.path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
            done += len(chunk)
            if rate:
                time.sleep(max(0.0, begun + done / rate - time.monotonic()))
    found.bytes += done
    return f"sha256:{hasher.hexdigest()}"


@contextmanager
def _idle() -> Iterator[None]:
    """Run when nobody else wants the processor; the same goes for the disk (ioprio_set(2))."""
    before = os.sched_getscheduler(0)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))
