"""Make the app artifact: the maker's own files, and one generated file that pins the images.

``docs/adr/0004-what-an-app-artifact-holds.md`` has the rule. What was made is unpacked again by the
device's own code and read by Compose; it has to give the model that the maker's project gives.
"""

from __future__ import annotations

import io
import json
import posixpath
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composeapps import artifact, policy, projectdir
from composeapps.compose import Project
from composeapps.errors import ConfigError
from composeapps.oci import (
    COMPOSE_ENVFILE,
    COMPOSE_FILE,
    COMPOSE_FILES_TAR,
    COMPOSE_PROJECT,
    EMPTY_TYPE,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    digest_of,
)
from composeapps.publish import pack
from composeapps.publish.project import NAME, Loaded, comparable, offline_compose

#: Annotation: what an app was published for, like ``linux/amd64,linux/arm64``.
PLATFORMS = "io.composeapps.platforms"
#: The generated Compose file; Docker's own publisher calls it so too.
PINS = "image-digests.yaml"
EMPTY = b"{}"
_WHAT = "the app"


@dataclass(frozen=True)
class Packed:
    """A finished app artifact in memory."""

    manifest: bytes
    #: Config and layers, by digest.
    blobs: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """The digest of the manifest, which is the app's."""
        return digest_of(self.manifest)

    def open(self, blob: Descriptor) -> io.BytesIO:
        """Open a blob; a ``projectdir.OpenBlob``."""
        return io.BytesIO(self.blobs[blob.digest])


def make(
    loaded: Loaded,
    pins: Mapping[str, str],
    platforms: Sequence[Platform],
    limit: int = pack.DEFAULT_LIMIT,
) -> Packed:
    """Return the artifact of a loaded project.

    Args:
        pins: ``registry/repository@digest`` by service.
        platforms: that it is published for.
        limit: bytes that all packed files together may have.

    Raises:
        ConfigError: a file cannot be packed.
    """
    blobs: dict[str, bytes] = {}
    own = _own_files(loaded)
    layers = [
        _add(blobs, _content(loaded, file.name), file.media_type, file.annotations) for file in own
    ]
    taken = {file.name for file in own}
    entries = pack.collect(loaded.root, _tar_needs(loaded), taken)
    pins_name = posixpath.normpath(posixpath.join(loaded.directory, PINS))
    if pins_name in taken or pins_name in entries:
        raise ConfigError(f"{pins_name} is a name that the pinned images are written to: rename it")
    if entries:
        layers.append(_add(blobs, pack.write(entries, limit), COMPOSE_FILES_TAR, {}))
    annotations = {artifact.FILE: pins_name}
    layers.append(_add(blobs, pins_file(pins, loaded.profiles), COMPOSE_FILE, annotations))
    return Packed(_manifest(loaded, platforms, layers, blobs), blobs)


def pins_file(pins: Mapping[str, str], profiles: Sequence[str] = ()) -> bytes:
    """Return the Compose file that says each service's image by its digest."""
    lines = ["# Written by composeapps-publish.", "services:"]
    for service, image in sorted(pins.items()):
        lines += [f"  {json.dumps(service)}:", f"    image: {json.dumps(image)}"]
    if profiles:
        lines += [f"{policy.EXTENSION}:", f"  profiles: {json.dumps(list(profiles))}"]
    return "\n".join(lines).encode() + b"\n"


def verify(packed: Packed, loaded: Loaded, pins: Mapping[str, str], program: Sequence[str]) -> None:
    """Unpack an artifact as a device does, and compare what Compose makes of it.

    Raises:
        ConfigError: it is not the maker's project with its images pinned; says where it differs.
        ProcessError: Compose cannot read it.
    """
    expected = json.loads(json.dumps(loaded.model))
    for name, image in pins.items():
        expected["services"][name]["image"] = image
    with tempfile.TemporaryDirectory(prefix="composeapps-") as scratch:
        root = Path(scratch, "project").resolve()
        root.mkdir()
        found = read(packed, root, program)
    expected.pop(policy.EXTENSION, None)
    found.pop(policy.EXTENSION, None)
    difference = first_difference(expected, found)
    if difference:
        raise ConfigError(
            f"a device would not see this project as it is here: {difference}; write paths in the "
            "project relative, without variables of this machine"
        )


def read(packed: Packed, root: Path, program: Sequence[str]) -> dict[str, Any]:
    """Unpack an artifact into an empty directory and return Compose's comparable model of it."""
    parsed = artifact.parse(packed.manifest, _WHAT)
    projectdir.unpack(parsed, packed.open, root, _WHAT)
    project = Project.unpacked(NAME, parsed, root)
    compose = offline_compose(program, environment={"HOME": "/composeapps-home"})
    return comparable(compose.config(project, every_profile=True), root)


def first_difference(expected: object, found: object, where: str = "") -> str:
    """Return where two JSON values differ first, or an empty string."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            place = f"{where}.{key}" if where else str(key)
            difference = first_difference(expected.get(key), found.get(key), place)
            if difference:
                return difference
        return ""
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        differences = (
            first_difference(*pair, f"{where}[{index}]")
            for index, pair in enumerate(zip(expected, found, strict=True))
        )
        return next(filter(None, differences), "")
    if expected == found:
        return ""
    return f"{where} is {json.dumps(expected)[:200]} here and {json.dumps(found)[:200]} there"


@dataclass(frozen=True)
class _Own:
    """A file that is a layer of its own, of one of Docker's types."""

    name: str
    media_type: str
    annotations: Mapping[str, str]


def _own_files(loaded: Loaded) -> list[_Own]:
    """Return the files that are layers: the project's Compose files in order, then others.

    Docker puts those others next to the first Compose file, so only what lies there can be one.
    """
    own = [_Own(name, COMPOSE_FILE, {artifact.FILE: name}) for name in loaded.compose]
    if loaded.directory == ".":
        for name in sorted(loaded.extended):
            own.append(_Own(name, COMPOSE_FILE, {artifact.FILE: name, artifact.EXTENDS: "true"}))
        for name in sorted({*loaded.environments, *loaded.env_files}):
            own.append(_Own(name, COMPOSE_ENVFILE, {artifact.ENVFILE: name}))
    unique: dict[str, _Own] = {}
    for file in own:
        if file.name in loaded.compose or "/" not in file.name:
            unique.setdefault(file.name, file)
    return list(unique.values())


def _tar_needs(loaded: Loaded) -> dict[str, str]:
    needs = dict(loaded.needs.paths)
    for name in (*loaded.extended, *loaded.environments, *loaded.env_files):
        needs.setdefault(name, "the project")
    return needs


def _content(loaded: Loaded, name: str) -> bytes:
    try:
        with (loaded.root / name).open("rb") as file:
            data = file.read(artifact.FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"{loaded.root / name} cannot be read: {error.strerror}") from error
    if len(data) > artifact.FILE_LIMIT:
        raise ConfigError(f"{loaded.root / name} is larger than {artifact.FILE_LIMIT} bytes")
    return data


def _manifest(
    loaded: Loaded,
    platforms: Sequence[Platform],
    layers: list[dict[str, Any]],
    blobs: dict[str, bytes],
) -> bytes:
    annotations = {
        artifact.ENV_FILES: json.dumps(list(loaded.env_files)),
        PLATFORMS: ",".join(sorted(map(str, platforms))),
    }
    if loaded.directory != ".":
        annotations[artifact.DIRECTORY] = loaded.directory
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": COMPOSE_PROJECT,
        "config": _add(blobs, EMPTY, EMPTY_TYPE, {}),
        "layers": layers,
        "annotations": annotations,
    }
    return json.dumps(manifest, separators=(",", ":")).encode()


def _add(
    blobs: dict[str, bytes], data: bytes, media_type: str, annotations: Mapping[str, str]
) -> dict[str, Any]:
    """Keep a blob and return its descriptor."""
    blobs[digest_of(data)] = data
    return Descriptor(media_type, digest_of(data), len(data), annotations).to_json()
