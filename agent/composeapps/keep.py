"""Before a firmware update: copy what kept releases have only in the image into the data store.

A committed release may share layers with the factory store of the image that runs now. The next
image has another one. A firmware updater calls this last before it switches slots.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from composeapps import fetch, state
from composeapps.device import Device
from composeapps.errors import (
    ComposeAppsError,
    ConfigError,
    IntegrityError,
    SpaceError,
    TrustError,
)
from composeapps.plan import Plan, make_plan, space_checked

log = logging.getLogger(__name__)

#: State key: the boot in which ``keep`` was asked for; until the next one prune spares the copies.
KEPT = "kept-in-boot"


@dataclass(frozen=True)
class Kept:
    """What was copied."""

    releases: int
    files: int
    bytes: int


@dataclass(frozen=True)
class _Copy:
    source: Path
    final: Path
    digest: str


def keep(device: Device) -> Kept:
    """Copy what the committed, the previous and a half-switched release have in the image only.

    Each file is verified while it is copied, and synced before it gets its name. Doing it again
    copies what is missing. What has room is copied before what has none is refused.

    Raises:
        IntegrityError: the committed release is incomplete, or a file of the image is damaged.
        SpaceError: the data store has no room for a release; says for which.
    """
    device.state.put(KEPT, device.boot_id)
    digests = [device.state.current, device.state.get("stand-in"), device.state.previous]
    digests += [r.digest for r in device.state.releases() if r.state in state.SWITCHING]
    wanted = list(dict.fromkeys(digest for digest in digests if digest))
    if not wanted:
        raise ConfigError("no release is installed: there is nothing to keep")
    done = files = size = 0
    problems: list[ComposeAppsError] = []
    for digest in wanted:
        try:
            copies = _copies(device, make_plan(device, digest, online=False))
            size += _copy(device, digest, copies)
        except (ConfigError, IntegrityError, SpaceError, TrustError) as error:
            log.warning("release %s cannot be kept: %s", digest, error)
            # A release before the one that runs may have been incomplete all along, or be one that
            # this image cannot read.
            if digest == wanted[0] or isinstance(error, SpaceError):
                problems.append(error)
        else:
            done, files = done + 1, files + len(copies)
    if problems:
        raise problems[0]
    return Kept(done, files, size)


def is_asked(device: Device) -> bool:
    """Say whether copies of what the image has are to be kept in this boot."""
    return device.state.get(KEPT) == device.boot_id


def again(device: Device) -> None:
    """Keep a release that was committed after ``keep`` was asked for, before the slots switch."""
    if not is_asked(device):
        return
    try:
        keep(device)
    except (ConfigError, IntegrityError, SpaceError) as error:
        log.warning("%s", error)


def _copies(device: Device, plan: Plan) -> list[_Copy]:
    """Return what has to be copied for a release, small documents first."""
    data = device.stores.data
    found = []
    for digest in sorted(plan.blobs):
        path = device.stores.find_blob(digest)
        if path is None:
            raise IntegrityError(f"blob {digest} is missing in every local store")
        if not path.is_relative_to(data.root) and not data.is_intact(digest):
            found.append(_Copy(path, data.blob_path(digest), digest))
    for _, layer in plan.chains.values():
        if data.find_layer(layer.diff_id, layer.chain_id) is not None:
            continue
        sealed = device.stores.find_layer(layer.diff_id, layer.chain_id)
        if sealed is None:
            raise IntegrityError(f"the sealed layer for {layer.diff_id} is in no local store")
        found.append(_Copy(sealed.path, data.layers / sealed.path.name, sealed.digest))
    return list(dict.fromkeys(found))


def _copy(device: Device, digest: str, copies: list[_Copy]) -> int:
    need = sum(one.source.stat().st_size for one in copies)
    free = fetch.free_bytes(device.data)
    if copies and need + device.settings.update.reserve > free:
        raise SpaceError(
            f"keeping release {digest} needs {need} bytes in {device.data} beside the reserve, "
            f"{free} are free: free space, or go on without it"
        )
    for one in copies:
        with space_checked():
            device.stores.data.take(one.source, one.final, one.digest)
    return need
