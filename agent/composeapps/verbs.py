"""What each verb of ``composeapps`` does and prints."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from composeapps import damage, difference, ladder, mend, offer, overview, prune, scrub, state
from composeapps import keep as keeping
from composeapps import report as outbox
from composeapps import update as machine
from composeapps import verify as checks
from composeapps.compose import Compose
from composeapps.device import Device
from composeapps.errors import (
    ConfigError,
    IntegrityError,
    SourceError,
    SpaceError,
    TrustError,
    UnhealthyError,
    UpdateFailedError,
    UsageError,
)
from composeapps.plan import Plan
from composeapps.process import clean_environment
from composeapps.terminal import progress, table

log = logging.getLogger(__name__)
Options = argparse.Namespace


def check(device: Device, options: Options) -> None:
    """Look for a newer release."""
    with device.writer("check"):
        found = offer.check(device)
    _say(options, asdict(found), offer.sentence(found))


def update(device: Device, options: Options) -> None:
    """Finish what was begun; then check, fetch and apply."""
    with device.writer("update"):
        if options.unless_stopped and device.stopped:
            _fetch_only(device, options)
            return
        device.set_stopped(False)
        _finish(device)
        try:
            found: offer.Check | None = offer.check(device)
        except SourceError as error:
            if _fetched_target(device) is None:
                raise
            log.warning("%s; going on with the release that is fetched already", error)
            found = None
        if found is not None:
            _refetch(device)
        target = device.state.get("target")
        if target and target != device.state.current:
            record = device.state.release(target)
            if record is not None and record.state == state.FAILED:  # while things were mended
                device.state.put("target", "")
                raise UpdateFailedError(f"release {record.version} failed ({record.reason})")
            if record is None or record.state != state.FETCHED:
                _fetch(device, target)
            _switch(device, target)
        elif device.state.get(prune.PENDING):
            prune.prune(device)
        current = device.state.release(device.state.current)
    outbox.try_report(device)
    value = {"check": asdict(found) if found else None, "current": _release(current)}
    version = current.version if current else "none"
    _say(
        options, value, f"{offer.sentence(found) + '; ' if found else ''}running release {version}"
    )


def _finish(device: Device) -> None:
    """Finish a switch; what stands in its way may be what this update brings."""
    if device.state.switching() is not None:
        try:
            ladder.start(device)
        except (IntegrityError, UnhealthyError) as error:
            log.warning("%s", error)


def _refetch(device: Device) -> None:
    """Make what runs whole again; what cannot be mended so a newer release may end."""
    try:
        mend.refetch(device, progress())
    except (ConfigError, IntegrityError, SourceError, TrustError, UnhealthyError) as error:
        if device.state.get("target") in ("", device.state.current):
            raise
        log.warning("%s; going on to the newer release", error)


def _fetched_target(device: Device) -> state.ReleaseRecord | None:
    record = device.state.release(device.state.get("target"))
    return record if record is not None and record.state == state.FETCHED else None


def fetch_(device: Device, options: Options) -> None:
    """Check, then download and seal."""
    with device.writer("fetch"):
        _fetch_only(device, options)


def _fetch_only(device: Device, options: Options) -> None:
    found = offer.check(device)
    target = device.state.get("target")
    if target and target != device.state.current:
        _fetch(device, target)
    _say(options, asdict(found), offer.sentence(found) + ("; it is fetched" if target else ""))


def _fetch(device: Device, digest: str) -> None:
    """Fetch a release; where there is no room, first remove what nothing needs."""
    try:
        machine.fetch_release(device, digest, progress())
    except SpaceError as error:
        if not prune.prune(device):
            raise
        log.warning("%s: pruned", error)
        machine.fetch_release(device, digest, progress())


def apply(device: Device, options: Options) -> None:
    """Switch to the fetched release, or finish a switch."""
    with device.writer("apply"):
        switching = device.state.switching()
        record = switching or _fetched_target(device)
        if record is None:
            raise UsageError("no release is fetched and waiting: run composeapps fetch first")
        device.set_stopped(False)
        plan = _switch(device, record.digest)
    outbox.try_report(device)
    _say(options, {"release": plan.digest}, f"running release {plan.release.version}")


def _switch(device: Device, digest: str) -> Plan:
    """Apply a release; whatever comes of it, what is not needed any more goes."""
    device.state.put(prune.PENDING, "yes")  # whoever finds it does what power did not allow
    try:
        return machine.apply(device, digest)
    finally:
        record = device.state.release(digest)
        if record is not None and record.state in (state.COMMITTED, state.FAILED):
            device.state.put("target", "")
            keeping.again(device)
            prune.prune(device)
            outbox.try_report(device)


def start(device: Device, options: Options) -> None:
    """Run the release, mend what does not run."""
    with device.writer("start"):
        try:
            device.note_boot()
        except SpaceError as error:  # the apps have to run on a full disk too
            log.warning("%s", error)
        if options.unless_stopped and device.stopped:
            _say(options, {"stopped": True}, "stopped until the next start")
            return
        device.set_stopped(False)
        if not options.unless_stopped:
            damage.forget_resets(device)
        plan = ladder.start(device)
    outbox.try_report(device)
    apps = [app.name for app in plan.apps]
    value = {"release": plan.digest, "version": plan.release.version, "apps": apps}
    names = ", ".join(apps) or "no apps"
    _say(options, value, f"release {plan.release.version} runs, healthy: {names}")


def stop(device: Device, options: Options) -> None:
    """Stop the apps; volumes and containers stay."""
    with device.writer("stop"):
        plan = machine.running_plan(device)
        device.set_stopped(True)  # before: the resident part sees the first container end
        for app in plan.apps:
            Compose(device.settings.engine).stop(app.project)
    _say(options, {"stopped": [app.name for app in plan.apps]}, "stopped until the next start")


def status(device: Device, options: Options) -> int:
    """Say what runs, what failed, what is under way; 12 where an app is not healthy."""
    value, code = overview.status(device)
    _say(options, value, overview.text(value))
    return code


def ps(device: Device, options: Options) -> None:
    """List the containers of the apps."""
    plan = machine.running_plan(device)
    found = [item for app in plan.apps for item in device.engine.containers(app.name)]
    rows = [
        (c.project, c.service, c.status, c.health or "-", str(c.restarts), c.name) for c in found
    ]
    heading = ("APP", "SERVICE", "STATUS", "HEALTH", "RESTARTS", "CONTAINER")
    _say(options, [asdict(item) for item in found], table(heading, rows))


def logs(device: Device, options: Options) -> int:
    """Become ``docker compose logs`` of an app."""
    app = machine.running_plan(device).app(options.app)
    if app is None:
        raise UsageError(f"no app {options.app} in the running release")
    compose = Compose(device.settings.engine)
    command = ["logs", "--tail", str(options.tail), *(["--follow"] if options.follow else [])]
    argv = compose.argv(app.project, [*command, *options.service])
    os.chdir(app.project.directory)
    environment = clean_environment(compose.environment) | {"PWD": str(app.project.directory)}
    os.execvpe(argv[0], argv, environment)


def ls(device: Device, options: Options) -> None:
    """List the releases that the device knows."""
    marks = {device.state.current: "current", device.state.previous: "previous"}
    found = device.state.releases()
    rows = [(str(r.version), r.channel, r.state, marks.get(r.digest, ""), r.digest) for r in found]
    value = [asdict(r) | {"role": marks.get(r.digest, "")} for r in found]
    _say(options, value, table(("VERSION", "CHANNEL", "STATE", "ROLE", "DIGEST"), rows))


def diff(device: Device, options: Options) -> None:
    """Say what the newest release would change and cost."""
    with device.writer("diff"):
        found = offer.check(device)
        digest = found.digest
        if found.verdict not in (offer.AVAILABLE, offer.UP_TO_DATE):
            raise UsageError(offer.sentence(found))
        value = difference.compare(device, digest)
    _say(options, value, difference.text(value))


def reset(device: Device, options: Options) -> None:
    """Use the rung that was asked for, or the smallest that mends what verify finds."""
    if options.wipe_volume and not options.app:
        raise UsageError("--wipe-volume needs an app: composeapps reset APP --wipe-volume VOLUME")
    with device.writer("reset"):
        device.set_stopped(False)
        damage.forget_resets(device)
        if options.factory:
            plan = mend.reset_to_factory(device)
        elif options.engine:
            plan = mend.reset_whole_engine(device, "asked for")
        elif options.app:
            plan = mend.reset_one(device, options.app, "asked for", options.wipe_volume)
        else:
            plan = mend.reset_what_is_damaged(device)
    outbox.try_report(device)
    _say(options, {"release": plan.digest}, f"release {plan.release.version} runs, healthy")


def verify(device: Device, options: Options) -> int:
    """Compare everything with what it has to be; 6 where something is damaged."""
    if options.scrub:
        return _scrub(device, options)
    with device.writer("verify"):
        found = checks.verify(device, deep=options.deep)
    lines = [f"{item.kind} {item.name}: {item.problem}" for item in found]
    _say(options, [asdict(item) for item in found], "\n".join(lines) or "all is as it has to be")
    return IntegrityError.exit_code if found else 0


def _scrub(device: Device, options: Options) -> int:
    """Hash what is due, without the lock; mend what is damaged."""
    found = scrub.scrub(device)
    damaged = [str(layer.path) for layer in found.damaged]
    if damaged:
        with device.writer("verify"):
            mend.drop_layers(device, found.damaged)
            scrub.forget_damaged(device)
        outbox.try_report(device)
    value = {**vars(found), "damaged": damaged}
    text = f"{found.hashed} layers verified, {found.checked_by_kernel} checked by the kernel"
    _say(options, value, "; ".join([text, *(f"{path} is damaged" for path in damaged)]))
    return IntegrityError.exit_code if damaged else 0


def prune_(device: Device, options: Options) -> None:
    """Remove what no kept release needs."""
    with device.writer("prune"):
        freed = prune.prune(device)
    _say(options, {"freed": freed}, f"{freed} bytes freed")


def keep(device: Device, options: Options) -> None:
    """Copy what kept releases have only in the image, before the image changes."""
    with device.writer("keep"):
        kept = keeping.keep(device)
    text = f"{kept.releases} releases are kept: {kept.files} files copied, {kept.bytes} bytes"
    _say(options, asdict(kept), text)


def retry(device: Device, options: Options) -> None:
    """Allow failed releases to be tried again."""
    with device.writer("retry"):
        failed = [r for r in device.state.releases() if r.state == state.FAILED]
        if not failed:
            raise UsageError("no release failed")
        for record in failed:
            device.state.retry(record.digest)
    versions = [r.version for r in failed]
    text = ", ".join(map(str, versions))
    _say(options, {"retry": versions}, f"release {text} may be tried again: composeapps update")


def report(device: Device, options: Options) -> None:
    """Deliver the events that are not delivered yet."""
    with device.writer("report"):
        count = outbox.report(device)
    _say(options, {"delivered": count}, f"{count} events delivered")


def _release(record: state.ReleaseRecord | None) -> dict[str, Any] | None:
    return asdict(record) if record is not None else None


def _say(options: Options, value: object, text: str) -> None:
    print(json.dumps(value, sort_keys=True) if options.json else text)
    sys.stdout.flush()


Verb = Callable[[Device, Options], int | None]
VERBS: dict[str, Verb] = {
    "apply": apply, "check": check, "diff": diff, "fetch": fetch_, "keep": keep, "logs": logs,
    "ls": ls, "prune": prune_, "ps": ps, "report": report, "reset": reset, "retry": retry,
    "start": start, "status": status, "stop": stop, "update": update, "verify": verify,
}  # fmt: skip
