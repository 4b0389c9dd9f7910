"""The rungs that throw parts of the engine's index away and tell it anew; volumes are kept.

What the engine holds is disposable: everything in it but volumes is made again from sealed layers
and small documents in seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from composeapps import copies, durable, install, mounts, process, update
from composeapps.device import Device
from composeapps.errors import EngineError, IntegrityError
from composeapps.plan import AppPlan, Plan, make_plan
from composeapps.process import ProcessError
from composeapps.store import verify_layer

log = logging.getLogger(__name__)

#: Seconds for the commands that stop and start the engine; systemd's own limit is 90.
_CONTROL_TIMEOUT = 200.0
#: Starts of an engine before it is reset, and seconds after the first that failed; they double.
STARTS = 3
_PAUSE = 2.0
_ASIDE = f"{durable.TEMPORARY}composeapps-reset"
#: State key that says an engine reset has begun and its work is not done.
PENDING = "engine-reset"
VOLUMES = "volumes"
VOLUMES_DB = "metadata.db"


def reset_apps(device: Device, plan: Plan, names: Iterable[str], reason: str) -> None:
    """Make apps anew: containers, networks and images dropped, layers verified, engine snapshots
    put right, project files unpacked, everything told again and started; volumes are kept.

    An app that shares a damaged layer is reset too.

    Raises:
        IntegrityError: a sealed layer or document is damaged and no local copy mends it.
        EngineError, ProcessError: the engine or Compose does not do it.
    """
    lost = copies.restore(device, plan.blobs)
    if lost:
        raise IntegrityError(f"no copy of {lost[0]} is left: the release cannot be told anew")
    apps = [app for app in plan.apps if app.name in set(names)]
    damaged = _verify_layers(device, apps)
    apps += [app for app in plan.apps if app not in apps and _uses(app, damaged)]
    for app in apps:
        log.warning("resetting app %s: %s", app.name, reason)
        device.state.add_event("reset-app", {"app": app.name, "reason": reason})
        device.engine.remove_containers(app.name)
    for app in apps:  # then: one app may be on another's
        device.engine.remove_networks(app.name)
    # What is remembered of the engine's snapshots may be what is wrong: look anew.
    device.state.forget_snapshots(sorted({id_ for app in apps for id_ in _chains(app)}))
    for app in apps:
        for image in app.images:
            install.forget_image(device, image)
        durable.remove(app.root)
    fresh = make_plan(device, plan.digest, online=False)
    install.tell(device, fresh)
    for app in fresh.apps:
        if app.name in {item.name for item in apps}:
            update.start_app(device, fresh, app)


def _chains(app: AppPlan) -> set[str]:
    return {layer.chain_id for _, layer in app.layers}


def _uses(app: AppPlan, damaged: set[str]) -> bool:
    return any(layer.chain_id in damaged for _, layer in app.layers)


def _verify_layers(device: Device, apps: list[AppPlan]) -> set[str]:
    """Hash the sealed layers of some apps; a damaged file of ours goes away (law L2).

    Returns:
        the chain IDs whose file was damaged.
    """
    damaged = set()
    checked: dict[Path, bool] = {}
    for app in apps:
        for _, layer in app.layers:
            sealed = device.stores.find_layer(layer.diff_id, layer.chain_id)
            if sealed is None:
                damaged.add(layer.chain_id)
                continue
            if sealed.path not in checked:
                checked[sealed.path] = verify_layer(sealed)
            if not checked[sealed.path]:
                damaged.add(layer.chain_id)
                install.drop_damaged(device, sealed)
    return damaged


def reset_engine(device: Device, reason: str) -> None:
    """Stop the engine, move its whole store aside except volumes, and start it empty.

    The caller tells it everything anew. After a power cut the next run begins this again.

    Raises:
        EngineError: it does not start even with an empty store.
    """
    log.error("resetting the engine: %s", reason)
    if device.state.get(PENDING) != reason:  # else this one was begun and reported before
        device.state.put(PENDING, reason)
        device.state.add_event("reset-engine", {"reason": reason})
    _empty_engine(device, keep_volume_database=True)
    try:
        _start_engine(device)
    except EngineError as error:
        log.error("%s: making its volume database anew too", error)
        _empty_engine(device, keep_volume_database=False)
        _start_engine(device)
    device.state.put(PENDING, "")


def finish_engine_reset(device: Device) -> None:
    """Do an engine reset again that a power cut interrupted; else clear away what one left."""
    reason = device.state.get(PENDING)
    if reason:
        reset_engine(device, reason)
    _clear_aside(device)


def revive_engine(device: Device, reason: str) -> None:
    """Start an engine that does not answer, a few times; reset it where that is not enough.

    One that runs and does not answer is stopped and started once: a full disk can do that.
    """
    hung = False
    for number in range(STARTS):
        if start_engine(device):
            try:
                device.engine.wait_ready(device.settings.engine.ready_timeout)
                return
            except EngineError as error:
                log.error("%s", error)
                if hung:
                    break
                hung = True
        try:
            process.run(device.settings.engine.stop, timeout=_CONTROL_TIMEOUT)
        except ProcessError as error:
            log.error("%s", error)
        time.sleep(_PAUSE * 2**number)
    reset_engine(device, reason)


def start_engine(device: Device) -> bool:
    """Run the command that starts the engine; say whether it ended well.

    systemd refuses to start what failed too often (systemd.unit(5), StartLimitBurst), so it is
    made to forget that first.
    """
    forget, begin = device.settings.engine.reset_failed, device.settings.engine.start
    try:
        if forget:
            process.run(forget, timeout=_CONTROL_TIMEOUT)
    except ProcessError as error:  # a unit that is not there, or another init system
        log.info("%s", error)
    try:
        process.run(begin, timeout=_CONTROL_TIMEOUT)
    except ProcessError as error:
        log.error("%s", error)
        return False
    return True


def _empty_engine(device: Device, *, keep_volume_database: bool) -> None:
    device.engine.close()
    process.run(device.settings.engine.stop, timeout=_CONTROL_TIMEOUT)
    _kill_containers(device)
    device.state.forget_snapshots()
    _clear_aside(device)  # of an interrupted reset, or of each try with an engine that never starts
    for root in _roots(device):
        _move_aside(root)
    if not keep_volume_database:
        durable.remove(device.settings.engine.docker_root / VOLUMES / VOLUMES_DB)


def _start_engine(device: Device) -> None:
    if not start_engine(device):
        raise EngineError("the engine does not start: look into its journal")
    device.engine.wait_ready(device.settings.engine.ready_timeout)
    _clear_aside(device)


def _clear_aside(device: Device) -> None:
    """Remove what was moved aside; what the medium does not let go of waits for the next start.

    A damaged store may lie on a damaged file system: then only the check at boot mends it, and the
    engine, which has an empty store by now, need not wait for that.
    """
    for root in _roots(device):
        aside = root / _ASIDE
        # One by one: what stays keeps nothing else.
        for path in [*(sorted(aside.iterdir()) if aside.is_dir() else []), aside]:
            try:
                durable.remove(path)
            except OSError as error:
                log.error("what was moved aside stays until the next start: %s", error)


def _roots(device: Device) -> list[Path]:
    return [device.settings.engine.docker_root, device.settings.engine.containerd_root]


def _move_aside(root: Path) -> None:
    """Move everything but volumes into one directory of the same file system, durably.

    What an earlier reset left there stays beside it: it could not be removed.
    """
    if not root.is_dir():
        return
    aside = root / _ASIDE
    durable.make_dir(aside)
    # Each reset has a directory of its own below, so that no name is taken.
    aside = Path(tempfile.mkdtemp(prefix="reset-", dir=aside))
    for path in sorted(root.iterdir()):
        if path.name in (_ASIDE, VOLUMES, "lost+found"):
            continue
        os.replace(path, aside / path.name)
    durable.fsync_dir(aside)
    durable.fsync_dir(aside.parent)
    durable.fsync_dir(root)


def _kill_containers(device: Device) -> None:
    """End what outlives the engine: shims, their containers, and the mounts they left.

    containerd is stopped; with live-restore its shims go on, on a store that is going away.
    """
    for pid in _pids_of("containerd-shim"):
        for child in _children(pid):
            _kill(child)
        _kill(pid)
    roots = [*_roots(device), Path("/run/containerd"), Path("/run/docker")]
    volumes = device.settings.engine.docker_root / VOLUMES  # may be a file system of its own
    for point in map(Path, reversed(_mount_points())):
        below = any(root in point.parents for root in roots)
        if below and not point.is_relative_to(volumes):
            mounts.detach(point)
    for leftover in (Path("/run/containerd"), Path("/run/docker")):
        shutil.rmtree(leftover, ignore_errors=True)  # runtime state only, on a tmpfs


def _pids_of(name: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            program = (path / "cmdline").read_bytes().split(b"\0")[0]
            if os.path.basename(program).startswith(name.encode()):
                found.append(int(path.name))
    return found


def _children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _mount_points() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        return [line.split(" ")[4] for line in lines]
