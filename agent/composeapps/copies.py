"""Second copies of small documents that lie around anyway: any bytes with the right digest will do.

The engine's content store has every index, manifest and config, the unpacked projects have the
Compose files and (put there for this) their artifact's manifest, the state file has the releases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from composeapps import durable, slots
from composeapps.device import Device
from composeapps.errors import EngineError
from composeapps.oci import digest_of
from composeapps.release import NAME

#: File in each unpacked project that holds the artifact's manifest.
MANIFEST = ".composeapps-artifact.json"
#: Bytes; nothing small is larger.
_LIMIT = 8 * 1024 * 1024


def find_copy(device: Device, digest: str) -> bytes | None:
    """Return a document's bytes from anywhere on the device, or None; never touches the network."""
    document = device.state.document(digest)
    if document is not None and digest_of(document) == digest:
        return document
    for path in [*(store.blob_path(digest) for store in slots.others(device)), *_files(device)]:
        try:
            data = path.read_bytes() if path.stat().st_size <= _LIMIT else b""
        except OSError:  # damaged as well: the next one may be good
            continue
        if digest_of(data) == digest:
            return data
    try:
        data = device.snapshots.content(digest)
    except EngineError:
        return None
    return data if digest_of(data) == digest else None


def restore(device: Device, digests: Iterable[str]) -> list[str]:
    """Put small documents right in the data store where a copy is intact, before it is dropped.

    A damaged file of which there is no other copy is removed, so that it is missing and not wrong.

    Returns:
        the digests of which no intact copy is left.
    """
    lost = []
    for digest in sorted(digests):
        if device.stores.find_blob(digest) is not None:
            _drop_damaged(device, digest)
            continue
        if slots.take_blob(device, digest):
            continue
        data = find_copy(device, digest)
        if data is not None:
            device.stores.data.put_blob(data)
        else:
            durable.remove(device.stores.data.blob_path(digest))
            lost.append(digest)
    return lost


def _drop_damaged(device: Device, digest: str) -> None:
    """Remove a copy whose twin in the factory store is the good one (law L2)."""
    if not device.stores.data.is_intact(digest):
        durable.remove(device.stores.data.blob_path(digest))


def _files(device: Device) -> Iterator[Path]:
    factory = device.settings.paths.factory
    yield factory / NAME
    for root in (device.apps, device.data / "trust", factory / "trust"):
        if root.is_dir():
            for path in sorted(root.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    yield path
