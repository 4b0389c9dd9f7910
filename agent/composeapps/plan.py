"""What a release needs on this device: projects, images, layers; read from digests downward.

Every byte is reached by digest from the signed release (law L6). Small documents are kept in the
store as they are read, so that the same plan can be made again with no network.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from composeapps import artifact, copies, durable, images, policy, projectdir
from composeapps.compose import Compose, Project, has_profiles, images_of, leans_on_others
from composeapps.device import Device
from composeapps.errors import ConfigError, IntegrityError, SettingsError, SpaceError
from composeapps.health import Expectation, expectations
from composeapps.images import Image, Layer
from composeapps.oci import MANIFEST_LIMIT, Descriptor, Reference, hex_of
from composeapps.policy import Policy
from composeapps.process import ProcessError
from composeapps.release import LIMIT, Release


@dataclass(frozen=True)
class AppPlan:
    """One app of a release on this device."""

    name: str
    reference: Reference
    artifact: artifact.Artifact
    #: Where the artifact is unpacked.
    root: Path
    project: Project
    policy: Policy
    images: tuple[Image, ...]
    #: What has to run for the app to be healthy.
    expected: tuple[Expectation, ...]
    #: It uses what another app may have to make, so it starts after those that do not.
    starts_late: bool = False

    @property
    def layers(self) -> Iterator[tuple[Image, Layer]]:
        """Every layer of every image, bottom up within an image."""
        for image in self.images:
            for layer in image.layers:
                yield image, layer


@dataclass(frozen=True)
class Plan:
    """A whole release on this device."""

    digest: str
    release: Release
    apps: tuple[AppPlan, ...]
    #: Every small document that it was made of.
    blobs: frozenset[str]

    @cached_property
    def chains(self) -> dict[str, tuple[Image, Layer]]:
        """Every layer by its chain ID, parents before children."""
        return {layer.chain_id: (image, layer) for app in self.apps for image, layer in app.layers}

    def app(self, name: str) -> AppPlan | None:
        """Return one app by name."""
        return next((app for app in self.apps if app.name == name), None)


class Reader:
    """Reads small documents by digest: from the stores, else from the source, and keeps them."""

    def __init__(self, device: Device, *, online: bool) -> None:
        self._device = device
        self.online = online
        self.used: set[str] = set()

    def __call__(self, reference: Reference, digest: str, limit: int, kind: images.Kind) -> bytes:
        """Return the document; raises IntegrityError (not here, offline) or SourceError."""
        self.used.add(digest)
        try:
            return self._device.stores.read_blob(digest, limit)
        except IntegrityError:
            data = copies.find_copy(self._device, digest)
            if data is None and not self.online:
                raise
        if data is None:
            data = self._device.source.read(reference, digest, limit, kind=kind)
        with space_checked():
            self._device.stores.data.put_blob(data)
        return data

    def open(self, reference: Reference, blob: Descriptor) -> BinaryIO:
        """Open a blob of any size; the caller verifies it as it reads."""
        self.used.add(blob.digest)
        copies.restore(self._device, [blob.digest])
        path = self._device.stores.find_blob(blob.digest)
        if path is None:
            if not self.online:
                raise IntegrityError(f"blob {blob.digest} is missing in every local store")
            fresh = self._device.source.download(reference, blob, self._device.ingest)
            path = self._device.stores.data.blob_path(blob.digest)
            durable.publish_path(fresh, path)
        return path.open("rb")


class space_checked:  # noqa: N801 - used as a statement
    """Turns a full file system into SpaceError."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Translate ENOSPC and EDQUOT."""
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpaceError(
                f"no room for {error.filename or 'a file'}: free space on its file system, or "
                "run composeapps prune"
            ) from error


def make_plan(device: Device, digest: str, *, online: bool) -> Plan:
    """Resolve a release whose document is in the stores.

    Args:
        digest: of the release document.
        online: whether missing documents may be fetched.

    Raises:
        IntegrityError: a document is missing or damaged in every local store (offline).
        SourceError: no source delivered it (online).
        ConfigError: an app has no image for this platform, or cannot be used.
        SpaceError: no room for documents or project files.
    """
    read = Reader(device, online=online)
    release = read_release(device, digest)
    apps = tuple(_plan_app(device, read, name, app.artifact) for name, app in release.apps.items())
    return Plan(digest, release, apps, frozenset(read.used | {digest}))


def make_part(device: Device, digest: str) -> tuple[Plan, dict[str, str]]:
    """Resolve those apps of a release whose documents are all here.

    Returns:
        the plan of these apps, and why each of the others is not in it.

    Raises:
        IntegrityError: the release document itself is damaged in every local store.
        ConfigError: an app has no image for this platform, or cannot be used.
        SpaceError: no room for documents or project files.
    """
    read = Reader(device, online=False)
    release = read_release(device, digest)
    apps: list[AppPlan] = []
    lacking: dict[str, str] = {}
    for name, app in release.apps.items():
        try:
            apps.append(_plan_app(device, read, name, app.artifact))
        except IntegrityError as error:
            lacking[name] = str(error)
    return Plan(digest, release, tuple(apps), frozenset(read.used | {digest})), lacking


def read_release(device: Device, digest: str) -> Release:
    """Return a release document; raises IntegrityError where no copy of it is intact."""
    return Release.parse(read_document(device, digest), f"release {digest}")


def read_document(device: Device, digest: str) -> bytes:
    """Return a release document's bytes, from the stores or a copy, and put the store right."""
    try:
        return device.stores.read_blob(digest, LIMIT)
    except IntegrityError:
        data = copies.find_copy(device, digest)
        if data is None:
            raise
    device.stores.data.put_blob(data)
    return data


def _plan_app(device: Device, read: Reader, name: str, pinned: str) -> AppPlan:
    reference = Reference.parse(pinned)
    what = f"app {name}"
    manifest = read(reference, reference.digest, MANIFEST_LIMIT, "manifest")
    parsed = artifact.parse(manifest, what)
    root = project_root(device, name, reference)
    read.used.update(blob.digest for blob in parsed.blobs)
    if read.online:
        for blob in parsed.blobs:
            read.open(reference, blob).close()
    if not root.is_dir():
        with space_checked(), durable.new_directory(root) as temporary:
            projectdir.unpack(parsed, lambda blob: read.open(reference, blob), temporary, what)
            (temporary / copies.MANIFEST).write_bytes(manifest)
    compose = Compose(device.settings.engine)
    own = device.settings.paths.env / f"{name}.env"
    env_files = [own] if own.is_file() else []
    project = Project.unpacked(name, parsed, root, env_files=env_files)
    model = _model(compose, project, what, every_profile=True)
    wishes = policy.parse(model, what)
    project = Project.unpacked(name, parsed, root, env_files=env_files, profiles=wishes.profiles)
    # Asking Compose takes a tenth of a second or more at each start, and mostly tells nothing new.
    active = _model(compose, project, what) if has_profiles(model) else model
    walked = [
        images.walk(Reference.parse(text), device.platform, read)
        for text in sorted(images_of(model, name))
    ]
    return AppPlan(
        *(name, reference, parsed, root, project, wishes, tuple(walked)),
        expected=tuple(expectations(active)),
        starts_late=leans_on_others(model),
    )


def _model(
    compose: Compose, project: Project, what: str, *, every_profile: bool = False
) -> dict[str, Any]:
    try:
        return compose.config(project, every_profile=every_profile)
    except ProcessError as error:
        if not error.stderr:  # it did not run, or not to its end
            raise SettingsError(f"{what}: {error}") from error
        raise ConfigError(f"{what}: Compose cannot read its files: {error}") from error


def project_root(device: Device, name: str, reference: Reference) -> Path:
    """Return where an app's artifact is unpacked; another artifact has another directory."""
    return device.apps / f"{name}-{hex_of(reference.digest)[:16]}"
