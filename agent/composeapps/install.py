"""Make the engine know a release: mount its sealed layers, link engine snapshots, load documents.

Everything here may be interrupted anywhere and done again from the top. What the engine has is only
an index; what is wrong in it is dropped and told anew.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from composeapps import durable, mounts, slots
from composeapps.device import Device
from composeapps.errors import EngineError, IntegrityError, UnsupportedError
from composeapps.images import Image, Layer
from composeapps.oci import OCI_INDEX, OCI_MANIFEST, Descriptor, is_index, load_json
from composeapps.plan import Plan
from composeapps.snapshots import ChainLink, Snapshot
from composeapps.store import SealedLayer, verify_layer

log = logging.getLogger(__name__)


def image_name(image: Image) -> str:
    """Return what the engine knows an image as."""
    return image.reference.pinned()


def sealed_layer(device: Device, layer: Layer) -> SealedLayer:
    """Return a layer's sealed file; raises IntegrityError where no store holds one."""
    found = device.stores.find_layer(layer.diff_id, layer.chain_id)
    found = found or slots.take_layer(device, layer.diff_id, layer.chain_id)
    if found is None:
        raise IntegrityError(f"the sealed layer for {layer.diff_id} is in no local store")
    return found


def mount(device: Device, plan: Plan) -> dict[str, Path]:
    """Mount every sealed layer of a release.

    Returns:
        the mount point of each chain ID.

    Raises:
        IntegrityError: a layer is missing, or its file is no EROFS image.
        EngineError: the kernel cannot mount it.
    """
    return {chain_id: _mount(device, layer) for chain_id, (_, layer) in plan.chains.items()}


def mount_part(device: Device, plan: Plan, lacking: dict[str, str]) -> Plan:
    """Mount the layers of those apps that have all of them; return the plan of these apps.

    Args:
        lacking: gets why each of the others is left out.
    """
    whole = []
    for app in plan.apps:
        try:
            mount(device, replace(plan, apps=(app,)))
            whole.append(app)
        except IntegrityError as error:
            lacking[app.name] = str(error)
    return replace(plan, apps=tuple(whole))


def _mount(device: Device, layer: Layer) -> Path:
    """Mount a layer from the first store whose copy is sound enough for it."""
    while True:
        sealed = sealed_layer(device, layer)
        try:
            return mounts.mount_layer(sealed, device.layers, device.settings.engine.mount)
        except (IntegrityError, UnsupportedError):  # damage can look like a format of the future
            if verify_layer(sealed):  # what it has to be, and still no file system to this kernel
                raise
            drop_damaged(device, sealed)


def drop_damaged(device: Device, sealed: SealedLayer) -> None:
    """Take a damaged sealed layer out of use; a copy in the other store takes its place."""
    log.error("sealed layer %s is damaged", sealed.path)
    body = {"path": str(sealed.path), "diff_id": sealed.diff_id}
    device.state.add_event("damaged-layer", body)
    mounts.unmount(device.layers / sealed.name)
    if sealed.path.is_relative_to(device.data):
        durable.remove(sealed.path)
    else:
        device.distrust(sealed.path, damaged=True)


def tell(device: Device, plan: Plan) -> None:
    """Tell the engine every image of a release, chains first.

    Raises:
        EngineError: containerd or Docker refused.
        IntegrityError: something it needs is missing or damaged in every local store.
    """
    targets = mount(device, plan)
    known = device.snapshots.tree()
    for image in {image_name(image): image for app in plan.apps for image in app.images}.values():
        _tell_chain(device, image, targets, known)
        _tell_image(device, image)


def _tell_image(device: Device, image: Image) -> None:
    """Load an image's documents, unless the engine has them and can read them.

    containerd syncs its database, but not the directories of the files that this names: after a
    power cut it may know a document that is not there, which a load then leaves as it is.
    """
    name = image_name(image)
    for again in (False, True):
        try:
            if device.engine.has_image(name):
                return
            device.state.note_image(name)
            _load(device, image)
            if device.engine.has_image(name):
                return
        except EngineError as error:
            if again:
                raise
            log.warning("%s: telling it anew", error)
        forget_image(device, image)
    raise EngineError(f"Docker does not know image {name} though it has taken it")


def _load(device: Device, image: Image) -> None:
    documents = {
        item.digest: device.stores.read_blob(item.digest, item.size) for item in image.documents
    }
    top = image.documents[0]
    data = documents[top.digest]
    default = OCI_INDEX if is_index(data, image_name(image)) else OCI_MANIFEST
    media_type = load_json(data, image_name(image)).get("mediaType") or default
    entry = Descriptor(str(media_type), top.digest, top.size)
    device.engine.load(image_name(image), entry, documents)


def _tell_chain(
    device: Device, image: Image, targets: dict[str, Path], known: dict[str, Snapshot]
) -> None:
    _adopt(device, image, known)
    parent = ""
    for layer in image.layers:
        chain_id, target = layer.chain_id, targets[layer.chain_id]
        if chain_id not in known:
            path = device.snapshots.make(ChainLink(chain_id, parent, target), known)
            known[chain_id] = Snapshot(parent, committed=True)
            device.state.set_snapshot(chain_id, path)
        else:
            path = device.state.snapshots()[chain_id]
            if not link_is_right(path, target):
                _mend_link(device, chain_id, path, target, known)
        parent = chain_id


def _adopt(device: Device, image: Image, known: dict[str, Snapshot]) -> None:
    """Find where the engine keeps the chains that it has and of which nothing is remembered."""
    recorded = device.state.snapshots()
    there = [layer.chain_id for layer in image.layers if layer.chain_id in known]
    if all(chain_id in recorded for chain_id in there):
        return
    paths = device.snapshots.directories(there[-1])[::-1]
    if len(paths) != len(there):
        raise EngineError(f"the engine's chain {there[-1]} has {len(paths)} layers")
    for chain_id, path in zip(there, paths, strict=True):
        device.snapshots.keep(chain_id)
        device.state.set_snapshot(chain_id, path)


def _mend_link(
    device: Device, chain_id: str, path: Path, target: Path, known: dict[str, Snapshot]
) -> None:
    """Put a snapshot's link right; containers that stand on it are made anew by Compose."""
    log.warning("engine snapshot %s does not link to its sealed layer: mending it", path)
    for key in above(chain_id, known):
        if not key.startswith("sha256:"):
            device.engine.remove_container(key.removesuffix("-init"))
    durable.make_dir(path.parent)
    durable.replace_by_link(path, target)


def link_is_right(path: Path, target: Path) -> bool:
    """Say whether an engine snapshot's ``fs`` is the link that it has to be."""
    return path.is_symlink() and path.readlink() == target


def above(root: str, known: dict[str, Snapshot]) -> list[str]:
    """Return the keys of all snapshots that stand on one, directly or not."""
    found = [root]
    for parent in found:  # grows as it is walked
        found += [key for key, snapshot in known.items() if snapshot.parent == parent]
    return found[1:]


def forget_image(device: Device, image: Image) -> None:
    """Drop an image's name and documents from the engine, whatever state they are in.

    containerd trusts its database and not its files: a document that was damaged on the medium
    counts as present until it is forgotten.
    """
    try:
        device.engine.remove_image(image_name(image))
    except EngineError as error:  # a damaged document may be why we are here
        log.info("%s; removing it from containerd instead", error)
    device.snapshots.remove_image(image_name(image))
    device.snapshots.remove_content([item.digest for item in image.documents])


def unmount_others(device: Device, keep: Sequence[Plan]) -> None:
    """Unmount sealed layers that no kept release needs."""
    wanted = set()
    for plan in keep:
        for _, layer in plan.chains.values():
            sealed = device.stores.find_layer(layer.diff_id, layer.chain_id)
            if sealed is not None:
                wanted.add(sealed.name)
    # By directory: an interrupted run may have left a mount point with nothing mounted.
    there = {path.name for path in device.layers.iterdir()} if device.layers.is_dir() else set()
    for name in sorted(there - wanted):
        mounts.unmount(device.layers / name)
