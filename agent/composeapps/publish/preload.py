"""A channel's release for one platform as a factory store, to be put into a device's image.

::

    root.json          the newest TUF root, for /usr/share/composeapps/root.json
    release.json       the release that was verified
    trust/             its metadata, with which a device verifies it again without network
    blobs/sha256/      app artifacts, and the images' indexes, manifests and configs
    layers/            every layer, sealed

Everything is reached by digest from the verified release. The same release, platform and
``mkfs.erofs`` give the same bytes; times and owners are not part of it, image builders set those.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from composeapps.oci import Platform, Reference
from composeapps.publish.apps import Tools, content_of, judge_platform
from composeapps.publish.directories import new_output
from composeapps.publish.sealing import copy_layers
from composeapps.release import NAME, Release
from composeapps.store import Store
from composeapps.trust import CheckResult, Trust

ROOT = "root.json"
TRUST = "trust"


@dataclass
class Memory:
    """What a device would remember; a preload remembers nothing."""

    values: dict[str, str] = field(default_factory=dict)

    def get(self, key: str, default: str = "") -> str:
        """Return a value, or the default where it was never set."""
        return self.values.get(key, default)

    def put(self, key: str, value: str) -> None:
        """Set a value."""
        self.values[key] = value


#: Makes the TUF client for a scratch directory and a memory.
MakeTrust = Callable[[Path, Memory], Trust]


@dataclass(frozen=True)
class Preloaded:
    """What a factory store holds."""

    release: Release
    #: Pinned references of its images by app.
    images: Mapping[str, tuple[str, ...]]


def preload(
    channel: str,
    platform: Platform,
    output: Path,
    root: bytes,
    make_trust: MakeTrust,
    tools: Tools,
) -> Preloaded:
    """Write the factory store; it appears under its name when it is complete.

    Args:
        output: is made; there must be nothing.
        root: bytes of the root that the device's image will carry.
        make_trust: gives the client that starts from that root.

    Raises:
        UsageError: there is something under that name already.
        TrustError: the release does not chain to the root.
        ConfigError, SealError: an app cannot run on that platform.
        SourceError, IntegrityError: content could not be had.
    """
    with (
        tempfile.TemporaryDirectory(prefix="composeapps-") as scratch,
        new_output(output) as temporary,
    ):
        trust = make_trust(Path(scratch), Memory())
        checked = trust.check(channel)
        trust.export(channel, temporary / TRUST)
        _write(temporary / ROOT, root)
        _write(temporary / NAME, checked.raw)
        images = _fill(temporary, checked, platform, tools)
    return Preloaded(checked.release, images)


def _fill(
    directory: Path, checked: CheckResult, platform: Platform, tools: Tools
) -> dict[str, tuple[str, ...]]:
    store = Store(directory)
    for path in (store.blobs, store.layers):
        path.mkdir(parents=True)
    _put(store, checked.raw)
    images = {}
    for name, app in checked.release.apps.items():
        judge_platform(name, app, platform)
        images[name] = _add_app(Reference.parse(app.artifact), platform, store, tools)
    for path in (directory, store.blobs, store.blobs.parent, store.layers):
        path.chmod(0o755)
    return images


def _add_app(
    reference: Reference, platform: Platform, store: Store, tools: Tools
) -> tuple[str, ...]:
    made = content_of(reference, platform, tools)
    for data in (made.packed.manifest, *made.packed.blobs.values()):
        _put(store, data)
    for image in made.survey.all():
        *manifests, config = image.documents
        for item in manifests:
            _put(store, tools.content.read(image.reference, item.digest, item.size, "manifest"))
        _put(store, tools.content.read(image.reference, config.digest, config.size, "blob"))
        copy_layers(tools.sealer.seal(image, tools.content), store.layers)
    return tuple(sorted({image.reference.pinned() for image in made.survey.all()}))


def _put(store: Store, data: bytes) -> None:
    store.blob_path(store.put_blob(data)).chmod(0o644)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o644)
