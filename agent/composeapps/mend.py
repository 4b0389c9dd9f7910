"""What a person or ``update`` asks for when something is damaged: the right rung, by itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from composeapps import copies, fetch, install, ladder, reset, state, update, verify
from composeapps.device import Device
from composeapps.errors import (
    ComposeAppsError,
    ConfigError,
    IntegrityError,
    SourceError,
    SpaceError,
    TrustError,
    UnhealthyError,
    UsageError,
)
from composeapps.plan import AppPlan, Plan, make_plan
from composeapps.store import SealedLayer
from composeapps.verify import ENGINE, FETCH, IMAGE, Finding

log = logging.getLogger(__name__)


def refetch(device: Device, progress: fetch.Progress) -> None:
    """Bring back from the network what the committed release lacks, and what the one before does.

    Raises:
        SourceError: what the committed release lacks cannot be had now.
        ConfigError, TrustError: this image cannot read it.
        SpaceError: there is no room for it.
        UnhealthyError: it is complete again, and does not run well.
    """
    current, previous = device.state.current, device.state.previous
    if current and (not _is_complete(device, current) or device.state.get("stand-in")):
        log.warning("the current release is incomplete: fetching what it lacks")
        fetch.fetch_layers(device, make_plan(device, current, online=True), progress)
        ladder.start(device)
    try:
        if previous and not _is_complete(device, previous):
            log.warning("the previous release is incomplete: fetching what it lacks")
            fetch.fetch_layers(device, make_plan(device, previous, online=True), progress)
    except (ConfigError, SourceError, SpaceError, TrustError) as error:
        log.warning("%s", error)  # its maker may have removed it, or this image cannot read it


def _is_complete(device: Device, digest: str) -> bool:
    """Say whether a release can be run from what is stored here, its small blobs intact."""
    try:
        plan = make_plan(device, digest, online=False)
    except IntegrityError:
        return False
    return not copies.restore(device, plan.blobs) and not fetch.missing(device, plan)


def reset_to_factory(device: Device) -> Plan:
    """Go back to the release that the image carries; raises ConfigError where it carries none."""
    digest = device.factory_digest
    if not digest:
        raise ConfigError("this image carries no factory release")
    device.state.add_event("reset-factory", {"release": digest})
    record = device.state.release(digest)
    if record is not None and record.state == state.FAILED:
        device.state.retry(digest)
    if digest != device.state.current:
        ladder.begin(device, digest)
    return ladder.start(device)


def reset_whole_engine(device: Device, reason: str) -> Plan:
    """Throw the engine's store away, volumes kept, and run the release again."""
    reset.reset_engine(device, reason)
    return ladder.start(device)


def reset_one(device: Device, name: str, reason: str, volumes: Sequence[str] = ()) -> Plan:
    """Reset one app of the running release; volumes are removed only where they are named.

    Raises:
        UsageError: there is no such app, or it has no such volume; nothing is done then.
    """
    plan = update.running_plan(device)
    if plan.app(name) is None:
        names = ", ".join(app.name for app in plan.apps)
        raise UsageError(f"no app {name} in the running release; it has {names}")
    if volumes:
        known = device.engine.volumes(name)
        for volume in volumes:
            if volume not in known:
                raise UsageError(f"app {name} has no volume {volume}")
        device.engine.remove_containers(name)
        for doomed in sorted({known[volume] for volume in volumes}):
            device.engine.remove_volume(doomed)
    reset.reset_apps(device, plan, [name], reason)
    return ladder.start(device)


def drop_layers(device: Device, damaged: Sequence[SealedLayer]) -> None:
    """Take damaged sealed layers out of use and run the best release without them.

    What stands on one is made anew on a copy from another store; where there is none, another
    release stands in until ``update`` has fetched it.
    """
    paths = {layer.path for layer in damaged}
    try:
        plan = update.running_plan(device)
        apps = [app.name for app in plan.apps if _stands_on(device, app, paths)]
    except (IntegrityError, ConfigError) as error:
        log.warning("%s", error)
        apps = []
    for layer in damaged:
        install.drop_damaged(device, layer)
    if device.stopped:
        return
    for name in apps:  # a running overlay keeps what was unmounted
        device.engine.remove_containers(name)
    try:
        ladder.start(device)
    except (IntegrityError, UnhealthyError) as error:
        log.error("%s", error)


def _stands_on(device: Device, app: AppPlan, paths: set[Path]) -> bool:
    found = (device.stores.find_layer(layer.diff_id, layer.chain_id) for _, layer in app.layers)
    return any(sealed is not None and sealed.path in paths for sealed in found)


def reset_what_is_damaged(device: Device) -> Plan:
    """Verify everything, use the smallest rung that mends it, and run the best release.

    Raises:
        IntegrityError: something is missing that only the network can bring; says what.
    """
    findings = _restore_documents(device)
    running = update.running_digest(device)
    apps = {name for finding in findings for name in finding.apps}
    if any(finding.rung == ENGINE for finding in findings):
        reason = next(finding.problem for finding in findings if finding.rung == ENGINE)
        reset.revive_engine(device, reason)
        if any(finding.rung == ENGINE for finding in verify.verify(device, deep=False)):
            reset.reset_engine(device, reason)
    if apps:
        try:
            plan = make_plan(device, running, online=False)
            reset.reset_apps(device, plan, sorted(apps), "verify found damage")
        except ComposeAppsError as error:  # the ladder goes on from here
            log.warning("%s", error)
    plan = ladder.start(device)
    left = [item for item in verify.verify(device, deep=True) if item.rung != IMAGE]
    if left:
        lacking = "; ".join(sorted({f"{item.kind} {item.name}" for item in left}))
        raise IntegrityError(
            f"release {plan.release.version} runs; still damaged and not to be mended from local "
            f"copies: {lacking}: composeapps update mends it when there is a network"
        )
    return plan


def _restore_documents(device: Device) -> list[Finding]:
    """Verify, put small documents right from other copies, and return what is still wrong."""
    found = verify.verify(device, deep=True)
    for finding in found:
        log.warning("%s %s: %s", finding.kind, finding.name, finding.problem)
    if not any(finding.rung == FETCH for finding in found):
        return found
    blobs = {finding.name for finding in found if finding.kind == "blob"}
    for digest in update.candidates(device):
        try:
            blobs |= make_plan(device, digest, online=False).blobs
        except IntegrityError as error:
            log.warning("%s", error)
    copies.restore(device, blobs)
    read = [finding for finding in found if finding.kind in ("layer", "content")]
    return read + [f for f in verify.verify(device, deep=False) if f not in read]
