"""From an image reference to everything a device needs of it, by digests only; no IO of its own.

Sources: OCI image-spec 1.1 (image index, manifest, config), Docker Image Manifest V2 Schema 2. An
index is resolved to one platform; its other platforms and its attestations are not looked at. Which
entry counts is decided as containerd's ``images.Manifest`` does it: the first of the best platform.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from composeapps.errors import ConfigError, IntegrityError
from composeapps.imageconfig import ImageConfig, parse_config
from composeapps.oci import (
    INDEX_TYPES,
    MANIFEST_LIMIT,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    Platform,
    Reference,
    chain_ids,
    digest_of,
    is_index,
    load_json,
    parse_index,
    parse_manifest,
)

Kind = Literal["manifest", "blob"]
#: Documents read for one image, and looks at them; nested indexes can be built to be
#: exponentially many, or to name one document exponentially often.
DOCUMENTS = 16
VISITS = 256
#: Indexes inside of one another.
DEPTH = 3
CONFIG_TYPES = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
LAYER_TYPES = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)
_ARM_VARIANTS = ("v8", "v7", "v6", "v5")


class Read(Protocol):
    """Gives a small document; need not check its digest."""

    def __call__(self, reference: Reference, digest: str, limit: int, kind: Kind) -> bytes:
        """Return the bytes; ``limit`` is how many there may be."""


@dataclass(frozen=True)
class Layer:
    """One layer of an image: where its bytes are, and what they unpack to."""

    descriptor: Descriptor
    diff_id: str
    chain_id: str


@dataclass(frozen=True)
class Image:
    """One image for one platform."""

    #: ``registry/repository@digest``, the digest being the index's where there is one.
    reference: Reference
    #: The image's own; may be an older ARM variant than what was wanted.
    platform: Platform
    #: Index or nested indexes, manifest, config, in this order, with their sizes.
    documents: tuple[Descriptor, ...]
    manifest: Manifest
    config: ImageConfig
    layers: tuple[Layer, ...]

    @property
    def download(self) -> int:
        """Bytes of everything, each blob once."""
        sizes = {item.digest: item.size for item in self.documents}
        sizes |= {layer.descriptor.digest: layer.descriptor.size for layer in self.layers}
        return sum(sizes.values())


def walk(reference: Reference, platform: Platform, read: Read) -> Image:
    """Resolve an image for a platform.

    Args:
        reference: has a digest.
        read: gives index, manifest and config; what it raises goes through.

    Raises:
        ConfigError: the image has nothing for that platform, or cannot be used here.
        IntegrityError: content does not match its digest, or contradicts itself.
    """
    walk_ = _Walk(reference, read)
    for wanted in acceptable(platform):
        found = walk_.find(wanted)
        if found is not None:
            return found
    offered = ", ".join(sorted({str(item) for item in walk_.platforms()})) or "none"
    raise ConfigError(f"{walk_.what} has nothing for {platform}; it has {offered}")


def platforms(reference: Reference, read: Read) -> list[Platform]:
    """Return the platforms that an image is made for; raises as ``walk`` does."""
    return list(_Walk(reference, read).platforms())


def acceptable(wanted: Platform) -> list[Platform]:
    """Return what runs on a platform, best first: on 32-bit ARM older variants too."""
    wanted = wanted.normal()
    if wanted.architecture != "arm" or wanted.variant not in _ARM_VARIANTS:
        return [wanted]
    older = _ARM_VARIANTS[_ARM_VARIANTS.index(wanted.variant) :]
    return [Platform(wanted.os, "arm", variant) for variant in older]


class _Walk:
    """Looks at one image from its digest down; every document is read once and counted."""

    def __init__(self, reference: Reference, read: Read) -> None:
        self._reference = reference
        self.what = f"image {reference.pinned()}"
        self._read = read
        self._documents: dict[str, bytes] = {}
        self._visits = 0

    def find(self, wanted: Platform) -> Image | None:
        """Return the first image for exactly this platform."""
        return self._find(self._top(), wanted, 0)

    def platforms(self) -> Iterator[Platform]:
        """Yield the platforms of all images."""
        return self._platforms(self._top(), 0)

    def _top(self) -> Descriptor:
        data = self._document(self._reference.digest, None, "manifest")
        named = load_json(data, self.what).get("mediaType")
        default = OCI_INDEX if is_index(data, self.what) else OCI_MANIFEST
        media_type = named if isinstance(named, str) else default
        return Descriptor(media_type, self._reference.digest, len(data))

    def _find(self, item: Descriptor, wanted: Platform, depth: int) -> Image | None:
        data = self._document(item.digest, item.size, "manifest")
        if not is_index(data, self.what):
            return self._judge(item, data, wanted)
        for entry in self._entries(data, depth):
            if entry.platform is None or entry.platform.matches(wanted):
                found = self._find(entry, wanted, depth + 1)
                if found is not None:
                    return replace(found, documents=(item, *found.documents))
        return None

    def _entries(self, data: bytes, depth: int) -> Sequence[Descriptor]:
        if depth >= DEPTH:
            raise ConfigError(f"{self.what} has indexes nested more than {DEPTH} deep")
        entries = parse_index(data, self.what)
        # An entry that names its platform counts before one that has to be looked into.
        return sorted(entries, key=lambda entry: entry.platform is None)

    def _judge(self, item: Descriptor, data: bytes, wanted: Platform) -> Image | None:
        manifest = parse_manifest(data, self.what)
        config = self._config(item, manifest)
        if config is None:
            return None
        if item.platform is None:
            if not config.platform.matches(wanted):
                return None
        elif (config.platform.os, config.platform.architecture) != (wanted.os, wanted.architecture):
            # Variants are not compared: many a config of 32-bit ARM does not name its own.
            raise ConfigError(
                f"{self.what}: its index says {item.platform}, the config there "
                f"{config.platform}; build the image again"
            )
        layers = _layers(manifest, config, self.what)
        documents = (item, manifest.config)
        return Image(self._reference, config.platform, documents, manifest, config, layers)

    def _config(self, item: Descriptor, manifest: Manifest) -> ImageConfig | None:
        if manifest.config.media_type not in CONFIG_TYPES:
            if item.digest != self._reference.digest:
                return None  # an attestation or another artifact among the images
            kind = manifest.artifact_type or manifest.config.media_type
            raise ConfigError(f"{self.what} is not an image but {kind[:100]!r}")
        data = self._document(manifest.config.digest, manifest.config.size, "blob")
        return parse_config(data, self.what)

    def _platforms(self, item: Descriptor, depth: int) -> Iterator[Platform]:
        data = self._document(item.digest, item.size, "manifest")
        if not is_index(data, self.what):
            config = self._config(item, parse_manifest(data, self.what))
            if config is not None:
                yield config.platform
            return
        for entry in self._entries(data, depth):
            if entry.platform is None or entry.media_type in INDEX_TYPES:
                yield from self._platforms(entry, depth + 1)
            elif entry.platform.os != "unknown":
                yield entry.platform

    def _document(self, digest: str, size: int | None, kind: Kind) -> bytes:
        data = self._documents.get(digest)
        self._visits += 1
        if self._visits > VISITS or (data is None and len(self._documents) >= DOCUMENTS):
            raise ConfigError(f"{self.what} has more than {DOCUMENTS} nested documents")
        if data is None:
            limit = MANIFEST_LIMIT if size is None else size
            if limit > MANIFEST_LIMIT:
                raise ConfigError(f"{self.what} has a document over {MANIFEST_LIMIT} bytes")
            data = self._read(self._reference, digest, limit, kind)
            self._documents[digest] = data
        if digest_of(data) != digest or (size is not None and len(data) != size):
            raise IntegrityError(f"{self.what}: {digest} is not what its digest or size says")
        return data


def _layers(manifest: Manifest, config: ImageConfig, what: str) -> tuple[Layer, ...]:
    if len(manifest.layers) != len(config.diff_ids):
        raise IntegrityError(
            f"{what} has {len(manifest.layers)} layers but {len(config.diff_ids)} diff IDs"
        )
    for layer in manifest.layers:
        if layer.media_type not in LAYER_TYPES:
            raise ConfigError(
                f"{what} has a layer of type {layer.media_type[:100]!r}, which is not part of the "
                "image or cannot be unpacked; build the image without it"
            )
    chain = chain_ids(config.diff_ids)
    return tuple(
        Layer(*items) for items in zip(manifest.layers, config.diff_ids, chain, strict=True)
    )
