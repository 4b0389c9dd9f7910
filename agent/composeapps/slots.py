"""The factory stores of the image's other slots: what a release lacks may still be there.

A firmware update may take away the factory store that a kept release shares layers with. Whatever
is used from another slot (``paths.other_factories``) is copied into the data store first, verified,
so that nothing ever points into it.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator
from pathlib import Path

from composeapps.device import Device
from composeapps.errors import IntegrityError
from composeapps.store import SealedLayer, Store

log = logging.getLogger(__name__)


def others(device: Device) -> Iterator[Store]:
    """Yield the factory stores of other slots that can be looked into now."""
    own = device.settings.paths.factory
    for pattern in device.settings.paths.other_factories:
        for name in sorted(glob.glob(pattern)):
            if Path(name).is_dir() and not (own.is_dir() and own.samefile(name)):
                yield Store(Path(name))


def take_layer(device: Device, diff_id: str, chain_id: str) -> SealedLayer | None:
    """Copy a sealed layer from another slot into the data store, where one has it."""
    for store in others(device):
        layer = store.find_layer(diff_id, chain_id)
        if layer is None:
            continue
        final = device.stores.data.layers / layer.path.name
        if _take(device, layer.path, final, layer.digest):
            return device.stores.data.find_layer(diff_id, chain_id)
    return None


def take_blob(device: Device, digest: str) -> bool:
    """Copy a blob from another slot into the data store; say whether one had it."""
    final = device.stores.data.blob_path(digest)
    paths = [store.blob_path(digest) for store in others(device)]
    return any(path.is_file() and _take(device, path, final, digest) for path in paths)


def _take(device: Device, path: Path, final: Path, digest: str) -> bool:
    try:
        device.stores.data.take(path, final, digest)
    except (OSError, IntegrityError) as error:  # then it is missing, as if there were no other slot
        log.warning("%s cannot be taken from another slot: %s", path, error)
        return False
    log.warning("%s was missing: taken from another slot", path)
    return True
