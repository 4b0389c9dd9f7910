"""OCI values: digests, references, descriptors, manifests. Pure functions, no IO.

Sources: OCI image-spec 1.1 (descriptor, manifest, image index, config), OCI distribution-spec 1.1,
and github.com/distribution/reference for what a reference looks like. All input is hostile.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from composeapps.errors import ConfigError, IntegrityError

#: Bytes; containerd refuses larger manifests too (core/images, 8 MiB).
MANIFEST_LIMIT = 8 * 1024 * 1024
#: Entries; an index or a manifest beyond these is an attack, not an image.
INDEX_ENTRIES = 1000
#: Layers; the kernel's overlay takes 500 lower directories, one is the container's own.
LAYERS = 499

INDEX_TYPES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
MANIFEST_TYPES = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"

COMPOSE_PROJECT = "application/vnd.docker.compose.project"
COMPOSE_FILE = "application/vnd.docker.compose.file+yaml"
COMPOSE_ENVFILE = "application/vnd.docker.compose.envfile"
#: What Compose writes as config type for registries that do not know artifactType.
COMPOSE_CONFIG_1_0 = "application/vnd.docker.compose.config.empty.v1+json"
#: Ours: a reproducible tar of the files that the project bind-mounts or reads.
COMPOSE_FILES_TAR = "application/vnd.composeapps.project.files.v1.tar"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REPOSITORY_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_REPOSITORY_PART}(?:/{_REPOSITORY_PART})*")
_REGISTRY = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
    r"|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_WORD = re.compile(r"[a-z0-9._-]{1,64}")
_ARM_NAMES = {"armhf": "v7", "armel": "v6"}
_ARCHITECTURES = {
    "i386": "386",
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
}
_VARIANTS = {
    ("amd64", "v1"): "",
    ("arm64", "8"): "",
    ("arm64", "v8"): "",
    ("arm64", "v8.0"): "",
    ("arm64", "9"): "v9",
    ("arm64", "9.0"): "v9",
    ("arm64", "v9.0"): "v9",
    ("arm", ""): "v7",
    ("arm", "5"): "v5",
    ("arm", "6"): "v6",
    ("arm", "7"): "v7",
    ("arm", "8"): "v8",
}


def parse_digest(value: object) -> str:
    """Return a sha256 digest as it is, or raise ConfigError; other algorithms are not used."""
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return value
    raise ConfigError(f"not a sha256 digest: {str(value)[:100]!r}")


def hex_of(digest: str) -> str:
    """Return the 64 hexadecimal digits of a digest."""
    return parse_digest(digest).removeprefix("sha256:")


def digest_of(data: bytes) -> str:
    """Return the sha256 digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True)
class Platform:
    """What an image runs on (image-spec, image index, ``platform``)."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse ``linux/arm64`` or ``linux/arm/v7``; raises ConfigError."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(_WORD.fullmatch(part) for part in parts):
            raise ConfigError(f"not a platform: {text[:100]!r}; write it like linux/arm64")
        return cls(*parts).normal()

    def normal(self) -> Platform:
        """Return it with the names containerd's ``platforms.Normalize`` gives."""
        architecture, variant = self.architecture.lower(), self.variant.lower()
        if architecture in _ARM_NAMES:
            architecture, variant = "arm", _ARM_NAMES[architecture]
        architecture = _ARCHITECTURES.get(architecture, architecture)
        variant = _VARIANTS.get((architecture, variant), variant)
        return Platform(self.os.lower(), architecture, variant)

    def matches(self, wanted: Platform) -> bool:
        """Say whether an image for this platform runs on the wanted one, variants equal."""
        return self.normal() == wanted.normal()

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True)
class Reference:
    """An image or artifact reference: registry, repository, and a digest or tag or both."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse a reference as Docker does (``nginx`` is ``docker.io/library/nginx``).

        Raises:
            ConfigError: the text is not a reference.
        """
        rest, at, digest = text.partition("@")
        if at:
            parse_digest(digest)
        slash = rest.rfind("/")
        name, colon, tag = rest, "", ""
        if rest.rfind(":") > slash:
            name, colon, tag = rest.rpartition(":")
        registry, repository = _split_registry(name)
        if (
            len(text) > 1024
            or not _REGISTRY.fullmatch(registry)
            or not _REPOSITORY.fullmatch(repository)
            or (colon and not _TAG.fullmatch(tag))
        ):
            raise ConfigError(f"not an image reference: {text[:200]!r}")
        return cls(registry, repository, tag, digest)

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    def pinned(self, digest: str = "") -> str:
        """Return ``registry/repository@digest``, the only form that a release holds."""
        return f"{self.name}@{parse_digest(digest or self.digest)}"

    def __str__(self) -> str:
        text = self.name
        text += f":{self.tag}" if self.tag else ""
        return text + (f"@{self.digest}" if self.digest else "")


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        registry, repository = first, rest
    else:
        registry, repository = "docker.io", name
    if registry == "index.docker.io":
        registry = "docker.io"
    if registry == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


@dataclass(frozen=True)
class Descriptor:
    """A typed, sized, digested link to content (image-spec, descriptor)."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object as it stands in a manifest."""
        value: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.annotations:
            value["annotations"] = dict(sorted(self.annotations.items()))
        return value


@dataclass(frozen=True)
class Manifest:
    """An image or artifact manifest."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)


def load_json(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object as Go does; raises IntegrityError naming ``what`` where it is none.

    That is UTF-8 only, and no ``NaN``: what the engine could not read is not read here either.
    """
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{what} is not a JSON object")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def descriptor(value: object, what: str) -> Descriptor:
    """Read a descriptor; raises IntegrityError naming ``what``."""
    if not isinstance(value, dict):
        raise IntegrityError(f"{what}: a descriptor is missing or not an object")
    size, media_type = value.get("size"), value.get("mediaType", "")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**48:
        raise IntegrityError(f"{what}: a descriptor has no usable size")
    if not isinstance(media_type, str):
        raise IntegrityError(f"{what}: a descriptor has no usable mediaType")
    try:
        digest = parse_digest(value.get("digest"))
    except ConfigError as error:
        raise IntegrityError(f"{what}: {error}") from error
    return Descriptor(
        media_type, digest, size, _annotations(value), read_platform(value.get("platform"))
    )


def parse_manifest(data: bytes, what: str) -> Manifest:
    """Read an image or artifact manifest (OCI, or Docker schema 2).

    Raises:
        IntegrityError: it is no such manifest, or beyond the limits above.
    """
    value = load_json(data, what)
    media_type = value.get("mediaType", OCI_MANIFEST)
    layers = value.get("layers")
    known = isinstance(media_type, str) and media_type in MANIFEST_TYPES
    if not _is_version_2(value) or not known:
        raise IntegrityError(f"{what} is not an image manifest (OCI, or Docker schema 2)")
    if not isinstance(layers, list) or len(layers) > LAYERS:
        raise IntegrityError(f"{what} has no list of at most {LAYERS} layers")
    artifact_type = value.get("artifactType", "")
    return Manifest(
        str(media_type),
        descriptor(value.get("config"), what),
        tuple(descriptor(layer, what) for layer in layers),
        artifact_type if isinstance(artifact_type, str) else "",
        _annotations(value),
    )


def parse_index(data: bytes, what: str) -> tuple[Descriptor, ...]:
    """Read the entries of an image index or manifest list; raises IntegrityError."""
    value = load_json(data, what)
    manifests = value.get("manifests")
    if not _is_version_2(value) or not isinstance(manifests, list):
        raise IntegrityError(f"{what} is not an image index")
    if len(manifests) > INDEX_ENTRIES:
        raise IntegrityError(f"{what} has more than {INDEX_ENTRIES} entries")
    return tuple(descriptor(entry, what) for entry in manifests)


def is_index(data: bytes, what: str) -> bool:
    """Say whether a document is an index; its own fields decide, not what a server calls it."""
    value = load_json(data, what)
    media_type = value.get("mediaType")
    if "manifests" in value and ("layers" in value or "config" in value):
        raise IntegrityError(f"{what} is an index and a manifest at once")  # CVE-2021-41190
    if media_type is None:
        return "manifests" in value
    return isinstance(media_type, str) and media_type in INDEX_TYPES


def _is_version_2(value: Mapping[str, Any]) -> bool:
    version = value.get("schemaVersion")
    return isinstance(version, int) and version == 2


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """Return the chain ID of each layer (image-spec, config, Layer ChainID)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


def _annotations(value: Mapping[str, Any]) -> dict[str, str]:
    annotations = value.get("annotations")
    if not isinstance(annotations, dict):
        return {}
    return {key: text for key, text in annotations.items() if isinstance(text, str)}


def read_platform(value: object) -> Platform | None:
    """Return the platform that an object's os, architecture and variant name, or None."""
    if not isinstance(value, dict):
        return None
    names = [value.get("os"), value.get("architecture"), value.get("variant") or "none"]
    if not all(isinstance(name, str) and _WORD.fullmatch(name.lower()) for name in names):
        return None
    return Platform(value["os"], value["architecture"], value.get("variant") or "").normal()
