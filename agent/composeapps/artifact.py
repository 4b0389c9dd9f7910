"""The app artifact: what a manifest of Docker's Compose artifact type says. Pure values, no IO.

The format is Docker Compose's own (its ``internal/oci/push.go`` and ``pkg/remote/oci.go``), so an
artifact made by ``docker compose publish`` is read as it is. One layer type is ours, a tar of all
other files that the project needs; two annotations say where in it the project lies.
``docs/adr/0004-what-an-app-artifact-holds.md`` has the reasons. All input is hostile.

An artifact describes one tree of files. Every name in it is relative to the tree's root, which is
the project directory unless the annotation ``io.composeapps.directory`` names one below it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from composeapps.errors import ConfigError
from composeapps.oci import (
    COMPOSE_CONFIG_1_0,
    COMPOSE_ENVFILE,
    COMPOSE_FILE,
    COMPOSE_FILES_TAR,
    COMPOSE_PROJECT,
    Descriptor,
    Manifest,
    is_index,
    parse_manifest,
)

#: Docker's annotations on layers.
FILE = "com.docker.compose.file"
ENVFILE = "com.docker.compose.envfile"
#: Its presence says that a Compose file is not one of the project's, but one of those extend it.
EXTENDS = "com.docker.compose.extends"
#: Ours, on the manifest: the project directory in the tree, and the ``--env-file`` files in order
#: (a JSON list), which is what Compose interpolates from.
DIRECTORY = "io.composeapps.directory"
ENV_FILES = "io.composeapps.env-files"

#: Bytes of one Compose or env file, and of the tar.
FILE_LIMIT = 8 * 1024 * 1024
TAR_LIMIT = 1024**3
#: Bytes of a name; a tar of POSIX 1003.1-1988 takes no more.
NAME_LIMIT = 255
DOTENV = ".env"


@dataclass(frozen=True)
class File:
    """One file that is a layer of its own."""

    name: str
    descriptor: Descriptor


@dataclass(frozen=True)
class Artifact:
    """A Compose project as an artifact holds it."""

    #: The files for ``docker compose -f``, in override order.
    compose: tuple[File, ...]
    #: Files that the Compose files name: what they extend or include, and env files.
    beside: tuple[File, ...]
    #: All other files, as one tar.
    tar: Descriptor | None
    directory: str
    #: Files for ``docker compose --env-file``, in order.
    env_files: tuple[str, ...]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Every blob that is needed to make the project directory, each once."""
        found = {file.descriptor.digest: file.descriptor for file in (*self.compose, *self.beside)}
        if self.tar is not None:
            found[self.tar.digest] = self.tar
        return tuple(found.values())

    @property
    def size(self) -> int:
        """Bytes of all blobs together."""
        return sum(blob.size for blob in self.blobs)


def parse(data: bytes, what: str) -> Artifact:
    """Read the manifest of an app artifact.

    Args:
        data: the manifest's bytes, already checked against its digest.
        what: how an error names it.

    Raises:
        IntegrityError: it is not a manifest.
        ConfigError: it is not a Compose app, or one that this agent cannot use.
    """
    if is_index(data, what):
        raise ConfigError(f"{what} is an index; name the Compose artifact itself by its digest")
    manifest = parse_manifest(data, what)
    _check_type(manifest, what)
    compose: list[File] = []
    beside: list[File] = []
    tars: list[Descriptor] = []
    for layer in manifest.layers:
        if layer.media_type == COMPOSE_FILE:
            (beside if EXTENDS in layer.annotations else compose).append(_file(layer, FILE, what))
        elif layer.media_type == COMPOSE_ENVFILE:
            beside.append(_file(layer, ENVFILE, what))
        elif layer.media_type == COMPOSE_FILES_TAR:
            tars.append(layer)
        elif layer.media_type != COMPOSE_CONFIG_1_0:
            raise ConfigError(
                f"{what} has a layer of type {layer.media_type[:100]!r}, which this version does "
                "not know"
            )
    if not compose or len(tars) > 1 or any(tar.size > TAR_LIMIT for tar in tars):
        raise ConfigError(f"{what} has no Compose file, or more than one tar, or one over 1 GiB")
    return Artifact(
        _distinct(compose, beside),
        tuple(beside),
        tars[0] if tars else None,
        _directory(manifest, what),
        _env_files(manifest, beside, what),
    )


def check_name(name: str, what: str) -> str:
    """Return a file name of the tree as it is: relative, plain, nothing that climbs.

    Raises:
        ConfigError: it is absolute, empty, too long, or holds ``..``, a backslash or a control
            character.
    """
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") for part in parts)
    printable = all(ord(char) >= 32 and char not in "\\\x7f" for char in name)
    if not plain or not printable or len(_encoded(name, what)) > NAME_LIMIT:
        raise ConfigError(f"{what} has a file name that cannot be used: {name[:100]!r}")
    return name


def _encoded(name: str, what: str) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} has a file name that is not UTF-8: {name[:100]!r}") from error


def _check_type(manifest: Manifest, what: str) -> None:
    # OCI image-spec 1.0 has no artifactType; Compose then marks the config instead.
    kind = manifest.artifact_type
    if kind == COMPOSE_PROJECT or (not kind and manifest.config.media_type == COMPOSE_CONFIG_1_0):
        return
    kind = kind or manifest.config.media_type
    raise ConfigError(
        f"{what} is not a Compose app but {kind[:100]!r}; make one with composeapps-publish app, "
        "or docker compose publish --resolve-image-digests"
    )


def _file(layer: Descriptor, annotation: str, what: str) -> File:
    if layer.size > FILE_LIMIT:
        raise ConfigError(f"{what} has a Compose or env file over {FILE_LIMIT} bytes")
    # Docker reads a Compose file without the annotation as the first one.
    default = "compose.yaml" if annotation == FILE and EXTENDS not in layer.annotations else ""
    return File(check_name(layer.annotations.get(annotation, default), what), layer)


def _distinct(compose: Iterable[File], beside: Iterable[File]) -> tuple[File, ...]:
    """Give each Compose file a name of its own; Docker keeps only the base name of a path."""
    taken = {file.name for file in beside}
    files = []
    for file in compose:
        name, number = file.name, 1
        while name in taken:
            number += 1
            name = f"{number}-{file.name.replace('/', '-')}"[:NAME_LIMIT]
        taken.add(name)
        files.append(File(name, file.descriptor))
    return tuple(files)


def _directory(manifest: Manifest, what: str) -> str:
    directory = manifest.annotations.get(DIRECTORY, ".")
    return directory if directory == "." else check_name(directory, what)


def _env_files(manifest: Manifest, beside: Iterable[File], what: str) -> tuple[str, ...]:
    text = manifest.annotations.get(ENV_FILES)
    if text is None:
        return tuple(file.name for file in beside if file.name == DOTENV)
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what} has an annotation {ENV_FILES} that is not JSON") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{what} has an annotation {ENV_FILES} that is not a list of names")
    return tuple(check_name(name, what) for name in names)
