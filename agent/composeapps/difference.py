"""What another release would change on this device, and what it would cost."""

from __future__ import annotations

from typing import Any

from composeapps import fetch
from composeapps.device import Device
from composeapps.errors import ConfigError, IntegrityError, TrustError
from composeapps.install import image_name
from composeapps.plan import Plan, make_plan


def compare(device: Device, digest: str) -> dict[str, Any]:
    """Compare a release, whose small documents are fetched for it, with the current one.

    Returns:
        for a program: version, bytes to download, bytes on flash (an estimate where the release
        does not say it), and per app what changes.

    Raises:
        SourceError: a document cannot be had.
    """
    plan = make_plan(device, digest, online=True)
    old = _current(device)
    missing = fetch.missing(device, plan)
    sizes = {layer.descriptor.digest: layer.descriptor.size for _, layer in missing}
    download = sum(sizes.values())
    return {
        "version": plan.release.version,
        "current": old.release.version if old else None,
        "download": download,
        "flash": download * fetch.EXPANSION,
        "layers": len(sizes),
        "apps": {name: change for name, change in _changes(old, plan).items() if change},
    }


def _current(device: Device) -> Plan | None:
    if not device.state.current:
        return None
    try:
        return make_plan(device, device.state.current, online=False)
    except (ConfigError, IntegrityError, TrustError):  # damaged, or not for this image
        return None


def _changes(old: Plan | None, new: Plan) -> dict[str, str]:
    before = {app.name: app for app in old.apps} if old else {}
    after = {app.name: app for app in new.apps}
    changes = dict.fromkeys(before.keys() - after.keys(), "removed")
    for name, app in after.items():
        if name not in before:
            changes[name] = "added"
        elif app.reference != before[name].reference:
            mine = {image_name(image) for image in app.images}
            fresh = mine - {image_name(image) for image in before[name].images}
            changes[name] = f"changed, {len(fresh)} of {len(mine)} images are new"
    return changes


def text(value: dict[str, Any]) -> str:
    """Return the comparison for a person."""
    lines = [
        f"release {value['version']}, this device runs {value['current'] or 'none'}",
        f"to download: {value['download']} bytes in {value['layers']} layers; "
        f"on flash: about {value['flash']} bytes",
    ]
    lines += [f"app {name}: {change}" for name, change in sorted(value["apps"].items())]
    return "\n".join(lines) if value["apps"] else "\n".join([*lines, "no app changes"])
