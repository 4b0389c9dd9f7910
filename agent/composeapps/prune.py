"""Remove what no kept release needs: only what is ours, and only after a commit."""

from __future__ import annotations

import logging

from composeapps import durable, install, keep, state, update
from composeapps.device import Device
from composeapps.errors import ConfigError, IntegrityError, TrustError
from composeapps.oci import hex_of
from composeapps.plan import Plan, make_plan
from composeapps.statefile import is_beside
from composeapps.store import Store, Stores

log = logging.getLogger(__name__)
#: Failed releases that are remembered, so that they are not tried again.
REMEMBERED = 20
#: State key that says a switch has begun after which nothing was pruned yet.
PENDING = "prune"


def prune(device: Device) -> int:
    """Remove blobs, sealed layers, projects and engine snapshots that no kept release needs.

    Kept are the current, previous and factory release and one that is being fetched or switched to,
    with what is there of it: a device that has no room for it may need what older ones left.

    Returns:
        bytes freed in the data store; 0 where a kept release is damaged, which is mended first, or
        cannot be read by this image, and where a newer agent's state names releases that are not
        known here.
    """
    if is_beside(device.state):
        log.warning("pruning nothing: a newer composeapps may need it")
        return 0
    kept = {*update.candidates(device), device.state.get("target")}
    kept |= {r.digest for r in device.state.releases() if r.state in state.SWITCHING}
    plans = []
    for digest in sorted(kept - {""}):
        try:
            plans.append(make_plan(device, digest, online=False))
        except IntegrityError as error:
            record = device.state.release(digest)
            if record is not None and record.state in (state.PENDING, state.FETCHING):
                continue  # its documents come before its layers, so there are none yet
            log.warning("pruning nothing, a kept release is damaged: %s", error)
            return 0
        except (ConfigError, TrustError) as error:  # made for another image's agent or Compose
            if digest == device.factory_digest and digest != device.state.current:
                continue  # the image has all of it
            log.warning("pruning nothing, a kept release cannot be read here: %s", error)
            return 0
    _forget_releases(device, kept)
    _prune_engine(device, plans)
    freed = _prune_store(device, plans)
    if device.state.get(PENDING):
        device.state.put(PENDING, "")
    return freed


def _forget_releases(device: Device, kept: set[str]) -> None:
    failed = [r for r in device.state.releases() if r.state == state.FAILED]
    remembered = {record.digest for record in failed[:REMEMBERED]}
    for record in device.state.releases():
        if record.digest not in kept | remembered:
            device.state.forget_release(record.digest)


def _prune_engine(device: Device, plans: list[Plan]) -> None:
    images = {install.image_name(i) for plan in plans for app in plan.apps for i in app.images}
    for name in sorted(device.state.images() - images):
        device.engine.remove_image(name)
        device.snapshots.remove_image(name)
        device.state.forget_image(name)
    chains = {chain_id for plan in plans for chain_id in plan.chains}
    gone = sorted(set(device.state.snapshots()) - chains)
    if gone:
        device.state.leave_snapshots(gone)
    left = device.state.left_snapshots()  # by an interrupted run too
    if left:
        device.snapshots.release(left)
        device.state.forget_snapshots(left)
    install.unmount_others(device, plans)


def _prune_store(device: Device, plans: list[Plan]) -> int:
    store = device.stores.data
    blobs = {digest for plan in plans for digest in plan.blobs}
    used: list[Store | Stores] = [device.stores, *([store] if keep.is_asked(device) else [])]
    layers = {
        sealed.path
        for plan in plans
        for _, layer in plan.chains.values()
        for place in used
        if (sealed := place.find_layer(layer.diff_id, layer.chain_id)) is not None
    }
    remembered = {record.digest for record in device.state.releases()}
    doomed = [store.blob_path(d) for d in store.all_blobs() if d not in blobs | remembered]
    doomed += [layer.path for layer in store.all_layers() if layer.path not in layers]
    freed = sum(path.stat().st_size for path in doomed)
    for path in doomed:
        durable.remove(path)
    roots = {app.root for plan in plans for app in plan.apps}
    for path in device.apps.iterdir():
        if path not in roots:
            durable.remove(path)
    begun = {hex_of(layer.descriptor.digest) for plan in plans for _, layer in plan.chains.values()}
    for path in device.ingest.iterdir():
        if path.name.split(".")[0] not in begun:
            freed += path.stat().st_size
            durable.remove(path)
    log.debug("kept %s", ", ".join(hex_of(plan.digest)[:12] for plan in plans))
    return freed
