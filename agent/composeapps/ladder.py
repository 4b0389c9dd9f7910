"""Run what should run, and mend what does not, by the smallest rung that does it.

restart the container → recreate the app → reset the app → reset the engine → previous release →
factory release → those apps of the best release that are not damaged. An error that means a damaged
engine (``damage``) goes straight to its rung. A release that is merely unhealthy after it was
committed is never left for an older one: only damage that no local copy mends makes the device run
another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from composeapps import damage, fetch, gate, install, reset, state, update
from composeapps.device import Device
from composeapps.errors import (
    ConfigError,
    EngineError,
    IntegrityError,
    SettingsError,
    TrustError,
    UnhealthyError,
    UnsupportedError,
    UpdateFailedError,
)
from composeapps.health import HEALTHY
from composeapps.plan import AppPlan, Plan, make_part, make_plan, read_document, read_release
from composeapps.process import ProcessError
from composeapps.release import Release

log = logging.getLogger(__name__)

#: A climb ends after so many times the longest time that an app has: one for each rung on an app.
CLIMB = 3
#: Seconds until an engine that does not answer is started; one that is starting is not disturbed.
PATIENCE = 10.0


def start(device: Device) -> Plan:
    """Bring the device to its release, with no network, whatever happened before.

    Raises:
        UnhealthyError: an app does not become healthy, all rungs were tried.
        IntegrityError: no release can be run from what is stored here.
        EngineError: the engine cannot be made to work.
    """
    reset.finish_engine_reset(device)
    while True:
        try:
            plan = _start(device)
            damage.forget_resets(device)
            update.note_lacking(device, plan.digest, {})
            return plan
        except (EngineError, ProcessError) as error:
            reason = damage.reason(device, error)  # not for ever: resets are counted
            if not reason:
                raise
            damage.note_reset(device)
            reset.reset_engine(device, reason)


def _start(device: Device) -> Plan:
    _ready_engine(device)
    adopt(device)
    record = device.state.switching()
    if record is not None:
        try:
            return update.apply(device, record.digest)
        except UpdateFailedError as error:
            log.warning("%s", error)
        except IntegrityError as error:  # what it goes back to is damaged
            log.error("%s", error)
    return run_best(device)


def adopt(device: Device) -> None:
    """Take up the release of the image where it is newer, or what a lost state file had committed.

    Which of them wins is their version; one that failed here, or that is not complete, does not.
    """
    if device.state.switching() is not None:
        return
    current = device.state.release(device.state.current)
    found: list[tuple[int, str]] = []
    if device.factory_digest:
        digest = device.factory_digest
        found.append((read_release(device, digest).version, digest))
    if current is None:
        found += _trusted(device)
    for version, digest in sorted(found, reverse=True):
        known = device.state.release(digest)
        failed = known is not None and known.state == state.FAILED
        if not failed and (current is None or version > current.version):
            begin(device, digest)
            return


def _trusted(device: Device) -> list[tuple[int, str]]:
    """Return the release that was trusted last, where all of it is stored here."""
    try:
        found = device.trust.load(device.settings.device.channel)
        digest = device.stores.data.put_blob(found.raw)
        if digest == device.factory_digest:  # that one is looked at anyway
            return []
        if fetch.missing(device, make_plan(device, digest, online=False)):
            return []
    except (TrustError, ConfigError, IntegrityError) as error:
        log.info("nothing to take up from what was trusted last: %s", error)
        return []
    return [(found.release.version, digest)]


def begin(device: Device, digest: str) -> None:
    """Begin the switch to a release of which nothing has to be fetched."""
    document = read_document(device, digest)
    release = Release.parse(document, f"release {digest}")
    record = device.state.add_release(digest, release.channel, release.version, document)
    if record.state in (state.PENDING, state.FETCHING):
        device.state.advance(digest, state.FETCHING)
        device.state.advance(digest, state.FETCHED)
    device.state.advance(digest, state.INSTALLING)


def run_best(device: Device) -> Plan:
    """Run the committed release, or the best older one that is not damaged and is understood.

    A newer agent may have committed what this one cannot read.
    """
    reasons = []
    for digest in update.candidates(device):
        try:
            plan = _run(device, digest)
        except SettingsError:  # the device's own, whatever the release
            raise
        except (IntegrityError, TrustError, ConfigError) as error:
            reasons.append(f"{digest}: {error}")
            log.error("release %s cannot be run: %s", digest, error)
            continue
        update.note_stand_in(device, digest, reasons)
        return plan
    if not reasons:
        raise IntegrityError("no release is installed: run composeapps update, or preload one")
    ran = _run_part(device, reasons) or "no release can be run"
    raise IntegrityError(f"{ran}: {'; '.join(reasons)}; run composeapps update")


def _run_part(device: Device, reasons: list[str]) -> str:
    """Run what is not damaged of the best release that has something; say what that is."""
    for digest in update.candidates(device):
        try:
            plan, lacking = make_part(device, digest)
        except (IntegrityError, TrustError, ConfigError):  # a reason says it already
            continue
        plan = install.mount_part(device, plan, lacking)
        if not plan.apps:
            continue
        install.tell(device, plan)
        update.note_stand_in(device, digest, reasons)
        update.note_lacking(device, digest, lacking)
        ran = f"release {plan.release.version} runs without {', '.join(sorted(lacking))}"
        try:
            update.run_apps(device, plan)
        except (UnhealthyError, ProcessError) as error:
            if damage.reason(device, error):
                raise
            ran += f", and {error}"
        return ran
    return ""


def _run(device: Device, digest: str) -> Plan:
    plan = make_plan(device, digest, online=False)
    _tell(device, plan)
    suspects: set[str] = set()
    try:
        update.run_apps(device, plan)
        return plan
    except update.GateError as error:
        log.warning("%s", error)
        suspects = {item.app for item in error.found}
    except (ProcessError, EngineError) as error:
        if damage.reason(device, error):
            raise
        log.warning("%s", error)
    _climb(device, plan, suspects)
    return plan


def _tell(device: Device, plan: Plan) -> None:
    """Tell the engine a release; start it again where it refuses, then reset it."""
    try:
        install.tell(device, plan)
        return
    except UnsupportedError:
        raise
    except EngineError as error:
        log.error("the engine does not take release %s: %s", plan.digest, error)
        reset.start_engine(device)  # containerd may have ended while dockerd lives
    try:
        install.tell(device, plan)
    except EngineError as error:
        if not damage.may_reset(device):
            raise
        damage.note_reset(device)
        reset.reset_engine(device, str(error))
        install.tell(device, plan)


def _climb(device: Device, plan: Plan, suspects: set[str]) -> None:
    """Try rung after rung on the apps that are not healthy, for a bounded time in all.

    Raises:
        UnhealthyError: all rungs were tried, or ``CLIMB`` times the longest time that an app has to
            become healthy is over, and one command more at the most.
    """
    verdicts = gate.snapshot_of_health(device, plan)
    suspects |= {name for name, verdict in verdicts.items() if verdict.state != HEALTHY}
    longest = max((gate.limits(device, plan, app)[0] for app in plan.apps), default=0.0)
    end = time.monotonic() + CLIMB * longest
    unhealthy: list[gate.Unhealthy] = []
    for rung in (_restart, _recreate, _reset_app):
        for app in plan.apps:
            if app.name in suspects and time.monotonic() < end:
                _try(rung, device, plan, app)
        unhealthy = gate.watch(device, plan, list(plan.apps), until=end, every=True)
        suspects = {item.app for item in unhealthy}
        if not suspects:
            break
    if unhealthy:
        failure = update.GateError(unhealthy)
        device.state.add_event("unhealthy", {"release": plan.digest, **failure.details})
        raise failure


_Rung = Callable[[Device, Plan, AppPlan], None]


def _try(rung: _Rung, device: Device, plan: Plan, app: AppPlan) -> None:
    log.warning("app %s is not healthy: %s", app.name, rung.__name__.strip("_"))
    try:
        rung(device, plan, app)
    except (ProcessError, EngineError) as error:
        if damage.reason(device, error):
            raise
        log.warning("%s", error)


def _restart(device: Device, plan: Plan, app: AppPlan) -> None:
    for container in device.engine.containers(app.name):
        if container.health == "unhealthy" or container.status in ("exited", "dead", "created"):
            device.engine.restart(container)
    update.start_app(device, plan, app)


def _recreate(device: Device, plan: Plan, app: AppPlan) -> None:
    update.start_app(device, plan, app, recreate=True)


def _reset_app(device: Device, plan: Plan, app: AppPlan) -> None:
    reset.reset_apps(device, plan, [app.name], "not healthy")


def _ready_engine(device: Device) -> None:
    """Wait for the engine; start it, then reset it, where it does not come."""
    timeout = device.settings.engine.ready_timeout
    try:
        device.engine.wait_ready(min(timeout, PATIENCE))
    except EngineError as error:
        log.error("%s: starting it", error)
        reset.revive_engine(device, str(error))
    update.ready_engine(device)
