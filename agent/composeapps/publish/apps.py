"""Whole steps of the maker's side: make an app of a project, and read a finished app again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from composeapps import artifact, projectdir
from composeapps.errors import ConfigError
from composeapps.oci import Platform, Reference
from composeapps.publish.artifact import PLATFORMS, Packed, make, verify
from composeapps.publish.content import Content, Say, read_document
from composeapps.publish.images import Survey, common_platforms, measure, pin, survey
from composeapps.publish.needs import Note
from composeapps.publish.pins import pinned_images
from composeapps.publish.project import Loaded, Sources, inspect, load
from composeapps.publish.sealing import Sealer
from composeapps.publish.staging import staged
from composeapps.release import App, Size


@dataclass(frozen=True)
class Tools:
    """What the steps work with."""

    content: Content
    sealer: Sealer
    #: How Compose is started.
    compose: Sequence[str]
    say: Say


@dataclass(frozen=True)
class Made:
    """A finished app."""

    packed: Packed
    survey: Survey
    #: By platform.
    sizes: dict[str, Size]
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Finished:
    """A finished app for one platform, as it is put into a bundle or a factory store."""

    packed: Packed
    survey: Survey


def make_app(sources: Sources, platforms: Sequence[Platform], limit: int, tools: Tools) -> Made:
    """Load a project, pin its images, pack it, read it again, and seal every layer.

    Args:
        platforms: none for all that the images have in common.
        limit: bytes that all packed files together may have.

    Raises:
        ConfigError: project or images cannot be published as they are.
        SealError: a layer cannot be sealed exactly.
        SourceError: images could not be had.
    """
    loaded = load(sources, tools.compose, platforms)
    pins = pin(loaded.images, tools.content, tools.say)
    wanted = list(platforms) or common_platforms(pins.values(), tools.content)
    if not platforms:
        loaded = load(sources, tools.compose, wanted)
    surveyed = survey(pins.values(), wanted, tools.content)
    packed = make(loaded, pins, wanted, limit)
    verify(packed, loaded, pins, tools.compose)
    sizes = _measure(packed, surveyed, tools)
    notes = (*loaded.needs.notes, *_packed_notes(loaded))
    return Made(packed, surveyed, sizes, notes)


def read_app(reference: Reference, platforms: Sequence[Platform], tools: Tools) -> Made:
    """Read an app artifact, ours or one of ``docker compose publish``, and judge it as a device.

    Args:
        reference: has a digest.
        platforms: none for those it was made for; an artifact of Docker's does not say, so then
            for all that its images have in common.

    Raises:
        ConfigError: a device could not run it.
        SealError: a layer cannot be sealed exactly.
        SourceError, IntegrityError: content could not be had.
    """
    what = f"app {reference.pinned()}"
    manifest = read_document(tools.content, reference)
    parsed = artifact.parse(manifest, what)
    packed = Packed(manifest, _blobs(reference, parsed, tools))
    loaded = _inspect(packed, parsed, platforms, tools, what)
    pinned = [_pinned(text, what) for text in sorted(loaded.images.values())]
    wanted = list(platforms) or made_for(manifest) or common_platforms(pinned, tools.content)
    surveyed = survey(pinned, wanted, tools.content)
    return Made(packed, surveyed, _measure(packed, surveyed, tools), tuple(loaded.needs.notes))


def content_of(reference: Reference, platform: Platform, tools: Tools) -> Finished:
    """Read a released app for one platform; Compose is asked only where the app needs it.

    Args:
        reference: has a digest, from a verified release: the app was judged when that was signed.

    Raises:
        ConfigError: its images have nothing for the platform.
        SourceError, IntegrityError: content could not be had.
    """
    what = f"app {reference.pinned()}"
    manifest = read_document(tools.content, reference)
    parsed = artifact.parse(manifest, what)
    packed = Packed(manifest, _blobs(reference, parsed, tools))
    images = pinned_images(packed, parsed)
    if images is None:
        loaded = _inspect(packed, parsed, [platform], tools, what)
        images = [_pinned(text, what) for text in loaded.images.values()]
    return Finished(packed, survey(images, [platform], tools.content))


def judge_platform(name: str, app: App, platform: Platform) -> None:
    """Raise ConfigError where an app of a release is not for a platform."""
    if app.sizes and str(platform) not in app.sizes:
        raise ConfigError(f"app {name} is published for {', '.join(app.sizes)}, not for {platform}")


def made_for(manifest: bytes) -> list[Platform]:
    """Return the platforms that an app says it was published for; none where it does not."""
    text = (json.loads(manifest).get("annotations") or {}).get(PLATFORMS, "")
    return [Platform.parse(name) for name in str(text).split(",") if name]


def _pinned(text: str, what: str) -> str:
    reference = Reference.parse(text)
    if not reference.digest:
        raise ConfigError(
            f"{what} does not pin image {text}: publish it with composeapps-publish app, or "
            "docker compose publish --resolve-image-digests"
        )
    return reference.pinned()


def _inspect(
    packed: Packed,
    parsed: artifact.Artifact,
    platforms: Sequence[Platform],
    tools: Tools,
    what: str,
) -> Loaded:
    with tempfile.TemporaryDirectory(prefix="composeapps-") as name:
        root = Path(name).resolve() / "project"
        root.mkdir()
        projectdir.unpack(parsed, packed.open, root, what)
        with staged(root, parsed.directory) as stage:
            files = [file.name for file in parsed.compose]
            try:
                return inspect(stage, files, parsed.env_files, tools.compose, platforms)
            except ConfigError as error:
                message = str(error).replace(f"{root}/", "").replace(str(root), "the app")
                raise ConfigError(f"{what}: {message}") from error


def _blobs(reference: Reference, parsed: artifact.Artifact, tools: Tools) -> dict[str, bytes]:
    found = {}
    for blob in parsed.blobs:
        with tools.content.file(reference, blob) as path:
            found[blob.digest] = path.read_bytes()
    return found


def _measure(packed: Packed, surveyed: Survey, tools: Tools) -> dict[str, Size]:
    extra = len(packed.manifest) + artifact.parse(packed.manifest, "the app").size
    return measure(surveyed, tools.sealer, tools.content, extra)


def _packed_notes(loaded: Loaded) -> Iterable[Note]:
    for name, where in sorted(loaded.needs.paths.items()):
        yield Note("packed", f"{name} ({where})")
