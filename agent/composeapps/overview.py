"""What runs, what failed, what is under way: a look that changes nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from composeapps import gate, scrub, state, update
from composeapps.device import Device
from composeapps.errors import (
    ConfigError,
    EngineError,
    IntegrityError,
    TrustError,
    UnhealthyError,
)


def status(device: Device) -> tuple[dict[str, Any], int]:
    """Return what is to be said for a program, and an exit code: 12 where an app is not healthy."""
    value: dict[str, Any] = {
        "channel": device.settings.device.channel,
        "current": _release(device.state.release(device.state.current)),
        "previous": _release(device.state.release(device.state.previous)),
        "factory": device.factory_digest or None,
        "stand_in": device.state.get("stand-in") or None,
        "stopped": device.stopped,
        "under_way": _release(device.state.switching()),
        "failed": [_release(r) for r in device.state.releases() if r.state == state.FAILED],
        "events_unsent": len(device.state.events(unsent=True)),
        "no_fs_verity": device.state.get(scrub.NO_VERITY) or None,
        "verified": float(device.state.get(scrub.DONE) or 0) or None,
        "apps": {},
    }
    code = 0
    if update.running_digest(device):
        try:
            verdicts = gate.snapshot_of_health(device, update.running_plan(device))
            value["apps"] = {name: asdict(verdict) for name, verdict in verdicts.items()}
        except (ConfigError, EngineError, IntegrityError, TrustError) as error:
            value["error"] = str(error)
            code = error.exit_code
        if any(app["state"] != "healthy" for app in value["apps"].values()):
            code = UnhealthyError.exit_code
    return value, code


def _release(record: state.ReleaseRecord | None) -> dict[str, Any] | None:
    return asdict(record) if record is not None else None


def text(value: dict[str, Any]) -> str:
    """Return the same for a person."""
    current = value["current"]
    lines = [f"channel   {value['channel']}"]
    lines.append(f"current   {current['version']}" if current else "current   none")
    if value["previous"]:
        lines.append(f"previous  {value['previous']['version']}")
    if value["stand_in"]:
        lines.append(f"stand-in  {value['stand_in']} runs, the current release is damaged")
    if value["stopped"]:
        lines.append("stopped   until composeapps start, or a reboot")
    if value["under_way"]:
        lines.append(f"under way {value['under_way']['version']} ({value['under_way']['state']})")
    for item in value["failed"]:
        lines.append(f"failed    {item['version']}: {item['reason']}")
    for name, app in sorted(value["apps"].items()):
        reasons = "; ".join(f"{key} {text}" for key, text in app["reasons"].items())
        lines.append(f"app       {name}: {app['state']}{': ' + reasons if reasons else ''}")
    if value.get("error"):
        lines.append(f"error     {value['error']}")
    if value["events_unsent"]:
        lines.append(f"events    {value['events_unsent']} not reported yet")
    return "\n".join(lines)
