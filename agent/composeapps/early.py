"""Before the engine starts: mount the sealed layers that its containers will be started on.

dockerd restarts containers before anybody can look, so the links in the engine's snapshots have to
lead somewhere by then. Which layers those are the links themselves say: neither the state nor
Compose has to be asked. What the image carries is mounted too, because ``start`` may take it up.
"""

from __future__ import annotations

import logging
import os

from composeapps import mounts
from composeapps.device import Device
from composeapps.errors import EngineError, IntegrityError, SpaceError, StateError
from composeapps.snapshots import links
from composeapps.store import SUFFIX, parse_layer_name

log = logging.getLogger(__name__)


def mount(device: Device) -> list[str]:
    """Mount what the engine's snapshots link to, and the layers of the factory store.

    One that fails does not keep the others from being mounted; each is logged.

    Returns:
        the names of all that are mounted now.

    Raises:
        IntegrityError: a layer is missing or damaged; ``start`` runs another release where it must.
        EngineError: the kernel cannot mount any.
    """
    with device.early_lock("mount"):
        distrusted = _distrusted(device)
        done: list[str] = []
        failed: list[EngineError | IntegrityError] = []
        for name in _wanted(device):
            try:
                _mount(device, name, distrusted)
                done.append(name)
            except (EngineError, IntegrityError) as error:
                failed.append(error)
    for problem in failed[1:]:
        log.error("%s", problem)
    if failed:
        raise failed[0]
    return done


def _wanted(device: Device) -> list[str]:
    """Return names of sealed layers: first what containers stand on, then the image's own."""
    targets = links(device.settings.engine.containerd_root)
    linked = [target.name for target in targets if target.parent == device.layers]
    factory = [layer.name for layer in device.stores.factory.all_layers()]
    return list(dict.fromkeys([*sorted(linked), *factory]))


def _mount(device: Device, name: str, distrusted: set[str]) -> None:
    """Mount the first copy of a layer that can be mounted."""
    missing = f"sealed layer {name} is in no local store, or damaged there"
    problem: EngineError | IntegrityError = IntegrityError(missing)
    for store in device.stores.all:
        layer = parse_layer_name(store.layers / f"{name}{SUFFIX}")
        if layer is None or str(layer.path) in distrusted or not os.path.isfile(layer.path):
            continue
        try:
            mounts.mount_layer(layer, device.layers, device.settings.engine.mount)
        except (EngineError, IntegrityError) as error:
            log.error("%s", error)
            problem = error
        else:
            return
    raise problem


def _distrusted(device: Device) -> set[str]:
    """Return the factory store's damaged files; a state that cannot be read names none."""
    path = device.data / "state.db"
    if not path.is_file():
        return set()
    from composeapps.state import State

    try:
        return set(State(path).get("distrusted").split("\n"))
    except (StateError, SpaceError) as error:
        log.warning("%s", error)
        return set()
