"""Compare everything the device holds with what it has to be; name what is damaged, change nothing.

Without ``deep`` no sealed layer is read: names, links, mounts and small documents are looked at.
"""

from __future__ import annotations

import filecmp
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from composeapps import copies, durable, gate, install, mounts, projectdir, update
from composeapps.device import Device
from composeapps.errors import (
    ComposeAppsError,
    ConfigError,
    EngineError,
    IntegrityError,
    TrustError,
    UnsupportedError,
)
from composeapps.health import FAILED
from composeapps.oci import digest_of
from composeapps.plan import Plan, make_plan
from composeapps.release import NAME
from composeapps.store import verify_layer

APP = "app"
ENGINE = "engine"
FETCH = "fetch"
IMAGE = "image"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it has to be."""

    #: blob, release, layer, mount, snapshot, image, content, project, container or engine.
    kind: str
    name: str
    problem: str
    #: What mends it: ``app`` (reset the app), ``engine`` (reset the engine), ``fetch`` (network),
    #: ``image`` (a new root image).
    rung: str
    apps: tuple[str, ...] = ()


def verify(device: Device, *, deep: bool) -> list[Finding]:
    """Look at every kept release and at the engine.

    Raises:
        StateError: the state file cannot be read.
    """
    findings = list(_blobs(device))
    if device.factory_is_damaged:
        problem = f"{device.settings.paths.factory / NAME} is damaged"
        findings.append(Finding("release", "factory", problem, IMAGE))
    running = update.running_digest(device)
    plans = []
    for digest in update.candidates(device):
        try:
            plans.append(make_plan(device, digest, online=False))
        except IntegrityError as error:
            findings.append(Finding("release", digest, str(error), FETCH))
        except (ConfigError, TrustError) as error:  # made for another image's agent or Compose
            findings.append(Finding("release", digest, str(error), IMAGE))
    seen: set[Path] = set()
    for plan in plans:
        findings += _layers(device, plan, seen, deep=deep)
    for plan in plans:
        if plan.digest == running:
            findings += _projects(device, plan)
            findings += _engine(device, plan, deep=deep)
    return findings


def _blobs(device: Device) -> Iterator[Finding]:
    for store in device.stores.all:
        for digest in store.all_blobs():
            if store.is_intact(digest):
                continue
            # A factory store cannot be written: what is good elsewhere is not missed there.
            if store is device.stores.data or device.stores.find_blob(digest) is None:
                yield Finding("blob", digest, f"{store.blob_path(digest)} is damaged", FETCH)


def _layers(device: Device, plan: Plan, seen: set[Path], *, deep: bool) -> Iterator[Finding]:
    for chain_id, (_, layer) in plan.chains.items():
        apps = users(plan, chain_id)
        sealed = device.stores.find_layer(layer.diff_id, chain_id)
        if sealed is None:
            problem = "its sealed layer is missing in every local store"
            yield Finding("layer", layer.diff_id, problem, FETCH, apps)
        elif deep and sealed.path not in seen:
            seen.add(sealed.path)
            if not verify_layer(sealed):
                yield Finding("layer", layer.diff_id, f"{sealed.path} is damaged", APP, apps)


def users(plan: Plan, chain_id: str) -> tuple[str, ...]:
    """Return the names of the apps that run on a chain."""
    return tuple(
        app.name for app in plan.apps if any(layer.chain_id == chain_id for _, layer in app.layers)
    )


def _projects(device: Device, plan: Plan) -> Iterator[Finding]:
    for app in plan.apps:
        scratch = device.settings.paths.run
        with tempfile.TemporaryDirectory(prefix=durable.TEMPORARY, dir=scratch) as name:
            fresh = Path(name)
            try:
                projectdir.unpack(
                    app.artifact,
                    lambda blob: _open(device, blob.digest),
                    fresh,
                    f"app {app.name}",
                )
            except ComposeAppsError as error:
                yield Finding("project", app.name, str(error), FETCH, (app.name,))
                continue
            wrong = difference(fresh, app.root, without=copies.MANIFEST)
        if wrong:
            problem = f"{app.root / wrong} is not as published"
            yield Finding("project", app.name, problem, APP, (app.name,))


def _open(device: Device, digest: str) -> BinaryIO:
    path = device.stores.find_blob(digest)
    if path is None:
        raise IntegrityError(f"blob {digest} is missing in every local store")
    return path.open("rb")


def difference(wanted: Path, found: Path, without: str = "") -> str:
    """Return the first relative path in which two trees differ, or an empty string.

    Args:
        without: a relative path that is not looked at.
    """
    names = _tree(wanted) - {without}
    others = _tree(found) - {without}
    for name in sorted(names | others):
        if name not in names or name not in others or _differs(wanted / name, found / name):
            return name
    return ""


def _tree(root: Path) -> set[str]:
    found: set[str] = set()
    for directory, names, files in os.walk(root):
        found.update(os.path.relpath(os.path.join(directory, name), root) for name in names + files)
    return found


def _differs(wanted: Path, found: Path) -> bool:
    if wanted.is_symlink() or found.is_symlink():
        return not (wanted.is_symlink() and found.is_symlink()) or (
            wanted.readlink() != found.readlink()
        )
    if wanted.is_dir() or found.is_dir():
        return not (wanted.is_dir() and found.is_dir())
    if not found.is_file() or wanted.stat().st_mode != found.stat().st_mode:
        return True
    return not filecmp.cmp(wanted, found, shallow=False)


def _engine(device: Device, plan: Plan, *, deep: bool) -> Iterator[Finding]:
    try:
        device.engine.wait_ready(0)
        device.engine.check()
        yield from _mounts(device, plan)
        yield from _snapshots(device, plan)
        yield from _images(device, plan, deep=deep)
        for name, verdict in gate.snapshot_of_health(device, plan).items():
            if verdict.state == FAILED or verdict.reasons:
                reasons = "; ".join(f"{key}: {text}" for key, text in verdict.reasons.items())
                yield Finding("container", name, reasons, APP, (name,))
    except UnsupportedError as error:
        yield Finding("engine", "engine", str(error), IMAGE)
    except EngineError as error:
        yield Finding("engine", "engine", str(error), ENGINE)


def _mounts(device: Device, plan: Plan) -> Iterator[Finding]:
    mounted = mounts.mounted(device.layers)
    for chain_id, (_, layer) in plan.chains.items():
        sealed = device.stores.find_layer(layer.diff_id, chain_id)
        if sealed is not None and sealed.name not in mounted:
            problem = "its sealed layer is not mounted"
            yield Finding("mount", layer.diff_id, problem, APP, users(plan, chain_id))


def _snapshots(device: Device, plan: Plan) -> Iterator[Finding]:
    known = device.snapshots.tree()
    links = device.state.snapshots()
    for chain_id, (_, layer) in plan.chains.items():
        apps = users(plan, chain_id)
        path = links.get(chain_id)
        sealed = device.stores.find_layer(layer.diff_id, chain_id)
        if sealed is None:
            continue  # named as a missing layer already
        if chain_id not in known or path is None:
            problem = "the engine does not know the layer"
            yield Finding("snapshot", layer.diff_id, problem, APP, apps)
        elif not install.link_is_right(path, device.layers / sealed.name):
            problem = f"{path} is not the link to its sealed layer"
            yield Finding("snapshot", layer.diff_id, problem, APP, apps)


def _images(device: Device, plan: Plan, *, deep: bool) -> Iterator[Finding]:
    for app in plan.apps:
        for image in app.images:
            name = install.image_name(image)
            try:
                known = device.engine.has_image(name)
                problem = "the engine does not know it"
            except EngineError as error:  # the engine answers, this image is what is wrong
                known, problem = False, str(error)
            if not known:
                yield Finding("image", name, problem, APP, (app.name,))
                continue
            for item in image.documents if deep else ():
                data = device.snapshots.content(item.digest)
                if digest_of(data) != item.digest:
                    problem = f"the engine's copy of {item.digest} is damaged"
                    yield Finding("content", name, problem, APP, (app.name,))
