"""Fetch and seal what a release needs and no store holds: one layer at a time, resumable anywhere.

A layer goes download → seal → final name → compressed blob removed, so that nothing is kept twice.
Sealing reads every byte and checks the diff ID, so the blob itself need not be durable before.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from composeapps import durable, slots
from composeapps.device import Device
from composeapps.errors import IntegrityError, SpaceError
from composeapps.images import Image, Layer
from composeapps.oci import hex_of
from composeapps.plan import Plan, space_checked
from composeapps.seal import seal
from composeapps.store import SealedLayer

#: Called with what is being done to which blob, bytes done since the last call, its bytes in all.
Progress = Callable[[str, str, int, int], None]
#: Bytes of a sealed layer to expect for each byte of a compressed one; only the space check
#: before the work uses it, the work itself stops cleanly where the space ends.
EXPANSION = 2


def missing(device: Device, plan: Plan) -> list[tuple[Image, Layer]]:
    """Return the layers of a plan that no store holds sealed, in the order to seal them.

    What only another slot has is copied into the data store.
    """
    return [
        (image, layer)
        for image, layer in plan.chains.values()
        if device.stores.find_layer(layer.diff_id, layer.chain_id) is None
        and slots.take_layer(device, layer.diff_id, layer.chain_id) is None
    ]


def check_space(device: Device, layers: list[tuple[Image, Layer]]) -> None:
    """Refuse to begin what has no chance to end; raises SpaceError."""
    sizes = {layer.descriptor.digest: layer.descriptor.size for _, layer in layers}
    need = sum(sizes.values()) * EXPANSION + device.settings.update.reserve
    free = free_bytes(device.data)
    if sizes and need > free:
        raise SpaceError(
            f"the release needs about {need} bytes in {device.data}, {free} are free: free space, "
            "or run composeapps prune"
        )


def free_bytes(path: Path) -> int:
    """Return the bytes that may still be written to a path's file system."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def fetch_layers(device: Device, plan: Plan, progress: Progress) -> None:
    """Download and seal every layer of a plan that is missing.

    Raises:
        SourceError: a blob cannot be had now; what was done stays done.
        SpaceError: a file system is full; nothing half done is left.
        SealError: a layer cannot be sealed exactly.
        IntegrityError: a blob is not what its digest or diff ID says.
    """
    wanted = missing(device, plan)
    check_space(device, wanted)
    with _downloads(device, wanted, progress) as wait:
        for image, layer in wanted:
            if device.stores.find_layer(layer.diff_id, layer.chain_id) is None:
                _seal_layer(device, image, layer, wait(layer), progress)
            left = {layer.descriptor.digest for _, layer in missing(device, plan)}
            if layer.descriptor.digest not in left:  # else another chain needs it too
                blob = device.ingest / hex_of(layer.descriptor.digest)
                durable.remove(blob)
                durable.remove(blob.with_name(f"{blob.name}{durable.PART}"))


@contextmanager
def _downloads(
    device: Device, wanted: list[tuple[Image, Layer]], progress: Progress
) -> Iterator[Callable[[Layer], Path]]:
    """Download ahead of the sealing, ``source.parallel`` blobs at a time and no more."""
    images = {layer.descriptor.digest: (image, layer) for image, layer in wanted}
    queue = list(images)
    started: dict[str, Future[Path]] = {}
    pool = ThreadPoolExecutor(device.settings.source.parallel)
    stop = threading.Event()

    def begin() -> None:
        image, layer = images[queue.pop(0)]
        size = layer.descriptor.size
        name = layer.descriptor.digest
        started[name] = pool.submit(
            device.source.download,
            image.reference,
            layer.descriptor,
            device.ingest,
            progress=lambda count: progress("downloading", name, count, size),
            stop=stop,
            transient=True,
        )

    def wait(layer: Layer) -> Path:
        while layer.descriptor.digest not in started:
            begin()
        result = started[layer.descriptor.digest].result()
        if queue:
            begin()
        return result

    try:
        for _ in range(min(device.settings.source.parallel, len(queue))):
            begin()
        yield wait
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _seal_layer(
    device: Device, image: Image, layer: Layer, blob: Path, progress: Progress
) -> SealedLayer:
    lower = []
    for below in image.layers[: image.layers.index(layer)]:
        found = device.stores.find_layer(below.diff_id, below.chain_id)
        if found is None:
            raise IntegrityError(f"the sealed layer for {below.diff_id} went away")
        lower.append(found.path)
    output = device.stores.data.layers / f"{durable.TEMPORARY}{hex_of(layer.chain_id)}"
    progress("sealing", layer.descriptor.digest, 0, layer.descriptor.size)
    with space_checked():
        sealed = seal(lambda: blob.open("rb"), layer.diff_id, lower, output, device.settings.seal)
        chain_id = layer.chain_id if sealed.chain_dependent else ""
        done = device.stores.data.adopt_layer(output, layer.diff_id, chain_id, sealed.digest)
    progress("sealed", layer.descriptor.digest, 0, layer.descriptor.size)
    return done
