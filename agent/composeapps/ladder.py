"""Run what should run, and mend what does not, by the smallest rung that does it.

restart the container → recreate the app → reset the app → reset the engine → previous release →
factory release. A release that is merely unhealthy after it was committed is never left for an
older one: only damage that no local copy mends makes the device run another.
"""

from __future__ import annotations

import logging

from composeapps import fetch, gate, install, reset, state, update
from composeapps.device import Device
from composeapps.errors import (
    ConfigError,
    EngineError,
    IntegrityError,
    TrustError,
    UpdateFailedError,
)
from composeapps.plan import AppPlan, Plan, make_plan, read_document, read_release
from composeapps.process import ProcessError
from composeapps.release import Release

log = logging.getLogger(__name__)


def start(device: Device) -> Plan:
    """Bring the device to its release, with no network, whatever happened before.

    Raises:
        UnhealthyError: an app does not become healthy, all rungs were tried.
        IntegrityError: no release can be run from what is stored here.
        EngineError: the engine cannot be made to work.
    """
    reset.finish_engine_reset(device)
    _ready_engine(device)
    adopt(device)
    record = device.state.switching()
    if record is not None:
        try:
            return update.apply(device, record.digest)
        except UpdateFailedError as error:
            log.warning("%s", error)
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
    """Run the committed release, or the best older one that is not damaged."""
    reasons = []
    for digest in update.candidates(device):
        try:
            plan = _run(device, digest)
        except IntegrityError as error:
            reasons.append(f"{digest}: {error}")
            log.error("release %s cannot be run: %s", digest, error)
            continue
        update.note_stand_in(device, digest, reasons)
        return plan
    if not reasons:
        raise IntegrityError("no release is installed: run composeapps update, or preload one")
    raise IntegrityError(f"no release can be run: {'; '.join(reasons)}; run composeapps update")


def _run(device: Device, digest: str) -> Plan:
    plan = make_plan(device, digest, online=False)
    try:
        install.tell(device, plan)
    except EngineError as error:
        log.error("the engine does not take release %s: %s", digest, error)
        reset.reset_engine(device, str(error))
        install.tell(device, plan)
    try:
        update.run_apps(device, plan)
    except update.GateError as error:
        log.warning("%s", error)
    except (ProcessError, EngineError) as error:
        log.warning("%s", error)
    else:
        return plan
    _climb(device, plan)
    return plan


def _climb(device: Device, plan: Plan) -> None:
    """Try the rungs on each app that is not healthy; raises UnhealthyError when all are used."""
    for app in plan.apps:
        for rung in (_restart, _recreate, _reset_app):
            if _is_healthy(device, plan, app):
                break
            log.warning("app %s is not healthy: %s", app.name, rung.__name__.strip("_"))
            try:
                rung(device, plan, app)
            except (ProcessError, EngineError) as error:
                log.warning("%s", error)
    unhealthy = gate.watch(device, plan, list(plan.apps))
    if unhealthy:
        failure = update.GateError(unhealthy)
        device.state.add_event("unhealthy", {"release": plan.digest, **failure.details})
        raise failure


def _is_healthy(device: Device, plan: Plan, app: AppPlan) -> bool:
    return not gate.watch(device, plan, [app])


def _restart(device: Device, plan: Plan, app: AppPlan) -> None:
    for container in device.engine.containers(app.name):
        if container.health == "unhealthy" or container.status in ("exited", "dead", "created"):
            device.engine.restart(container.id)
    update.start_app(device, plan, app)


def _recreate(device: Device, plan: Plan, app: AppPlan) -> None:
    update.start_app(device, plan, app, recreate=True)


def _reset_app(device: Device, plan: Plan, app: AppPlan) -> None:
    reset.reset_apps(device, plan, [app.name], "not healthy")


def _ready_engine(device: Device) -> None:
    """Wait for the engine; start it, then reset it, where it does not come."""
    try:
        update.ready_engine(device)
    except EngineError as error:
        log.error("%s: starting it", error)
        reset.revive_engine(device, str(error))
        update.ready_engine(device)
