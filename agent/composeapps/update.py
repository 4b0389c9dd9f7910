"""The update machine: fetch, apply, commit or roll back what ``offer`` found.

A state is written before its work, and every state's work can be done again from the top; so
recovery is not a mode: it is the next run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from composeapps import damage, fetch, gate, install, offer, state
from composeapps.compose import Compose
from composeapps.device import Device
from composeapps.errors import (
    ComposeAppsError,
    ConfigError,
    EngineError,
    IntegrityError,
    SealError,
    SettingsError,
    TrustError,
    UnhealthyError,
    UnsupportedError,
    UpdateFailedError,
)
from composeapps.plan import AppPlan, Plan, make_plan, read_release
from composeapps.process import ProcessError
from composeapps.state import ReleaseRecord

log = logging.getLogger(__name__)

#: What makes a release itself unusable on this device, now and later.
_HOPELESS = (ConfigError, SealError, TrustError)

#: State key: the apps that what runs lacks for damage.
_LACKING = "lacking"


def fetch_release(device: Device, digest: str, progress: fetch.Progress) -> Plan:
    """Bring everything that a release needs into the store, sealed.

    Raises:
        SourceError, SpaceError: it can go on another time; what was done stays done.
        UpdateFailedError: the release cannot be used on this device, and is remembered as failed.
        SettingsError: the device's own settings or programs stand in the way, not the release.
    """
    record = _record(device, digest)
    switching = record.state in state.SWITCHING or record.state == state.COMMITTED
    if not switching:
        device.state.advance(digest, state.FETCHING)
    try:
        plan = make_plan(device, digest, online=True)
        fetch.fetch_layers(device, plan, progress)
    except _HOPELESS as error:
        if switching or isinstance(error, SettingsError):
            raise
        offer.note_failure(device, digest, damaged=False)
        _fail(device, digest, str(error), {})
        raise UpdateFailedError(f"release {record.version} cannot be used: {error}") from error
    if not switching:
        device.state.advance(digest, state.FETCHED)
    return plan


def apply(device: Device, digest: str) -> Plan:
    """Switch to a fetched release: install, start, gate, then commit or roll back.

    Raises:
        UpdateFailedError: it did not pass; the device is back on what it ran before.
        EngineError: the engine does not answer; the switch goes on with the next run.
        IntegrityError: it did not pass, and what to go back to is damaged.
    """
    record = _record(device, digest)
    if record.state == state.ROLLING_BACK:
        return roll_back(device, digest, record.reason)
    ready_engine(device)
    if record.state != state.STARTING:
        device.state.advance(digest, state.INSTALLING)
    attempts = device.state.count_attempt(digest)
    try:
        if attempts > device.settings.update.attempts and device.state.current:
            raise UnhealthyError(f"its start was interrupted {attempts - 1} times")
        plan = make_plan(device, digest, online=False)
        install.tell(device, plan)
        device.state.advance(digest, state.STARTING)
        run_apps(device, plan)
    except (UnhealthyError, IntegrityError, EngineError, ProcessError, *_HOPELESS) as error:
        _require_engine(device, error)
        offer.note_failure(device, digest, damaged=isinstance(error, IntegrityError))
        details = error.details if isinstance(error, GateError) else {}
        return roll_back(device, digest, str(error), details)
    event = device.state.commit(digest, "committed", _body(record))
    log.info("release %s committed, event %s", record.version, event.id)
    return plan


def roll_back(
    device: Device, digest: str, reason: str, details: dict[str, Any] | None = None
) -> Plan:
    """Go back to the committed release, which is still sealed and mounted.

    Raises:
        UpdateFailedError: always, once the device is back; says why.
        ComposeAppsError: going back did not work yet; the next run goes on with it.
    """
    record = _record(device, digest)
    device.state.advance(digest, state.ROLLING_BACK, reason)
    ready_engine(device)
    outcome = _go_back(device, digest)
    _fail(device, digest, reason, {**(details or {}), "outcome": outcome})
    raise UpdateFailedError(f"release {record.version} failed ({reason}); {outcome}")


def _go_back(device: Device, digest: str) -> str:
    """Run the best other release and say how that went; without one, run nothing."""
    outcome = "rolled back"
    damage: ComposeAppsError | None = None
    for candidate in candidates(device):
        if candidate == digest:
            continue
        try:
            plan = make_plan(device, candidate, online=False)
            install.tell(device, plan)
        except SettingsError:
            raise
        except (IntegrityError, TrustError, ConfigError) as error:
            damage = error
            outcome = f"rolled back further, because of damage: {error}"
            continue
        try:
            run_apps(device, plan)
        except (UnhealthyError, ProcessError) as error:
            outcome += f", but: {error}"
        note_stand_in(device, candidate, [str(damage)] if damage else [])
        return outcome
    if damage is not None:
        raise IntegrityError(f"there is no intact release to go back to: {damage}")
    remove_apps(device, known_names(device))
    return "there is no release to go back to"


def candidates(device: Device) -> list[str]:
    """Return the releases that the device may run, the best first: current, previous, factory."""
    found = [device.state.current, device.state.previous, device.factory_digest]
    return list(dict.fromkeys(digest for digest in found if digest))


class GateError(UnhealthyError):
    """Apps did not pass the gate; ``details`` has the reasons and last log lines."""

    def __init__(self, found: list[gate.Unhealthy]) -> None:
        text = "; ".join(f"app {item.app}: {item.reason}" for item in found)
        super().__init__(text)
        self.found = found
        self.details: dict[str, Any] = {"apps": [asdict(item) for item in found]}


def note_stand_in(device: Device, digest: str, reasons: list[str]) -> None:
    """Report once that an older release stands in for a damaged one, and once that it ended."""
    stand_in = digest if digest != device.state.current else ""
    if stand_in != device.state.get("stand-in"):
        kind = "stand-in" if stand_in else "mended"
        device.state.add_event(kind, {"release": digest, "reasons": reasons})
        device.state.put("stand-in", stand_in)


def note_lacking(device: Device, digest: str, lacking: Mapping[str, str]) -> None:
    """Report once which apps of a release cannot run here for damage; empty ends it."""
    value = " ".join([digest, *sorted(lacking)]) if lacking else ""
    if value != device.state.get(_LACKING):
        if lacking:
            device.state.add_event("incomplete", {"release": digest, "apps": dict(lacking)})
        device.state.put(_LACKING, value)


def running_digest(device: Device) -> str:
    """Return the release that the device runs: the committed one, or what stands in for it."""
    return device.state.get("stand-in") or device.state.current


def running_plan(device: Device) -> Plan:
    """Return the plan of the release that the device runs.

    Raises:
        ConfigError: none is installed.
    """
    digest = running_digest(device)
    if not digest:
        raise ConfigError("no release is installed: run composeapps update, or preload one")
    return make_plan(device, digest, online=False)


def run_apps(device: Device, plan: Plan) -> None:
    """Make the engine run exactly a release's apps, and wait until they are healthy.

    Raises:
        UnhealthyError: an app is not healthy.
        ProcessError: Compose could not start an app.
    """
    remove_apps(device, known_names(device) - {app.name for app in plan.apps})
    start_apps(device, plan)
    unhealthy = gate.watch(device, plan, list(plan.apps))
    if unhealthy:
        raise GateError(unhealthy)


def start_apps(device: Device, plan: Plan) -> None:
    """Bring all apps up, side by side but for those that need what others make.

    Raises:
        ProcessError: one did not come up.
    """
    compose = Compose(device.settings.engine)
    together = [app for app in plan.apps if not app.starts_late]
    compose.up_together([(app.project, gate.limits(device, plan, app)[0]) for app in together])
    for app in plan.apps:
        if app.starts_late:
            start_app(device, plan, app)


def start_app(device: Device, plan: Plan, app: AppPlan, *, recreate: bool = False) -> None:
    """Bring one app up as its files say; raises ProcessError."""
    timeout, _ = gate.limits(device, plan, app)
    Compose(device.settings.engine).up(app.project, timeout=timeout, recreate=recreate)


def remove_apps(device: Device, names: set[str]) -> None:
    """End apps and take their containers and networks away; their volumes stay."""
    for name in sorted(names):
        try:
            device.engine.stop(name)
        except EngineError as error:  # then at once
            log.warning("app %s: %s", name, error)
        device.engine.remove_containers(name)
    for name in sorted(names):  # then: one app may be on another's
        device.engine.remove_networks(name)


def known_names(device: Device) -> set[str]:
    """Return the names of the apps of every release that is remembered."""
    names: set[str] = set()
    for record in device.state.releases():
        try:
            names.update(read_release(device, record.digest).apps)
        except (IntegrityError, TrustError) as error:  # a lost document names nothing
            log.warning("release %s: %s", record.version, error)
    return names


def ready_engine(device: Device) -> None:
    """Wait for the engine and check that it can run sealed layers; raises EngineError."""
    device.engine.wait_ready(device.settings.engine.ready_timeout)
    device.engine.check()


def _require_engine(device: Device, error: ComposeAppsError) -> None:
    """Pass an error on where the engine is gone or damaged: then the release is not to blame."""
    if isinstance(error, (EngineError, ProcessError)):
        if isinstance(error, UnsupportedError) or damage.reason(device, error):
            raise error
        try:
            device.engine.wait_ready(0)
        except EngineError:
            raise error from None


def _fail(device: Device, digest: str, reason: str, details: dict[str, Any]) -> None:
    record = _record(device, digest)
    body = {**_body(record), "reason": reason, **details}
    event = device.state.fail(digest, reason, "failed", body)
    log.warning("release %s failed, event %s: %s", record.version, event.id, reason)


def _record(device: Device, digest: str) -> ReleaseRecord:
    record = device.state.release(digest)
    if record is None:
        raise ConfigError(f"release {digest} is not known: run composeapps check")
    return record


def _body(record: ReleaseRecord) -> dict[str, Any]:
    return {"release": record.digest, "channel": record.channel, "version": record.version}
