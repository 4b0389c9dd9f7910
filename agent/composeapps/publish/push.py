"""Where a finished app goes: a registry, or an OCI image layout that any web server can host."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

from composeapps import durable
from composeapps.config import Settings
from composeapps.errors import ConfigError, SourceError
from composeapps.images import Image, Kind
from composeapps.oci import (
    COMPOSE_PROJECT,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Reference,
    hex_of,
    load_json,
    parse_index,
)
from composeapps.publish.artifact import Packed
from composeapps.publish.content import NAMES, Content, Say, short
from composeapps.publish.directories import exclusive
from composeapps.publish.images import Survey
from composeapps.registry import registry_client
from composeapps.transport import Transport

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_FILE, _DIRECTORY = 0o644, 0o755
REF_NAME = NAMES[1]


def push(packed: Packed, reference: Reference, settings: Settings) -> None:
    """Push an app artifact to its reference's registry, under its tag too if there is one.

    Raises:
        SourceError: the registry did not take it.
    """
    transport = Transport(settings.source.timeout)
    try:
        client = registry_client(reference.registry, settings, transport)
        for digest, data in packed.blobs.items():
            client.push_blob(reference, digest, len(data), io.BytesIO(data))
        for name in {reference.tag, ""}:
            target = Reference(reference.registry, reference.repository, name)
            if client.push_manifest(target, packed.manifest, OCI_MANIFEST) != packed.digest:
                raise SourceError(f"{reference}: the registry made another digest of the app")
    finally:
        transport.close()


class Layout:
    """An OCI image layout (image-spec, image layout) that apps and their images are added to."""

    def __init__(self, directory: Path) -> None:
        """Use a directory; raises ConfigError where it holds something else."""
        self._directory = directory
        self._blobs = directory / "blobs" / "sha256"
        self._index = directory / "index.json"
        if directory.exists() and not self._index.exists() and any(directory.iterdir()):
            raise ConfigError(f"{directory} is not empty and no OCI image layout")

    def add(
        self, packed: Packed, reference: Reference, surveyed: Survey, content: Content, say: Say
    ) -> None:
        """Add an app under a reference's name, with what devices need of its images.

        That is not their other platforms, nor attestations.

        Raises:
            BusyError: another composeapps-publish writes to it.
            SourceError, IntegrityError: an image could not be had.
        """
        durable.make_dir(self._blobs, _DIRECTORY)
        with exclusive(self._directory, self._blobs):
            durable.write_file(self._directory / "oci-layout", _LAYOUT, _FILE)
            for image in surveyed.all():
                self._add_image(image, content, say)
            for digest, data in packed.blobs.items():
                self._put(digest, data)
            self._put(packed.digest, packed.manifest)
            entry = Descriptor(OCI_MANIFEST, packed.digest, len(packed.manifest)).to_json()
            self._list({**entry, "artifactType": COMPOSE_PROJECT}, _name(reference, packed.digest))

    def _add_image(self, image: Image, content: Content, say: Say) -> None:
        *manifests, config = image.documents
        for item in manifests:
            self._copy_document(image.reference, item, "manifest", content)
        self._copy_document(image.reference, config, "blob", content)
        for item in image.manifest.layers:
            if not self._path(item.digest).exists():
                say(f"copying {short(item.digest)} of {image.reference.name}")
                self._copy_layer(image.reference, item, content)
        self._list(image.documents[0].to_json(), image.reference.pinned())

    def _path(self, digest: str) -> Path:
        return self._blobs / hex_of(digest)

    def _put(self, digest: str, data: bytes) -> None:
        if not self._path(digest).exists():
            durable.write_file(self._path(digest), data, _FILE)

    def _copy_document(
        self, reference: Reference, item: Descriptor, kind: Kind, content: Content
    ) -> None:
        if not self._path(item.digest).exists():
            self._put(item.digest, content.read(reference, item.digest, item.size, kind))

    def _copy_layer(self, reference: Reference, item: Descriptor, content: Content) -> None:
        final = self._path(item.digest)
        temporary = final.with_name(f"{durable.TEMPORARY}{final.name}")
        with content.file(reference, item) as source:
            shutil.copyfile(source, temporary)
        temporary.chmod(_FILE)
        durable.fsync_file(temporary)
        durable.publish_path(temporary, final)

    def _list(self, entry: dict[str, Any], name: str) -> None:
        """Put an entry into the index under a name, which it takes away from any other."""
        others: list[dict[str, Any]] = []
        if self._index.exists():
            data = self._index.read_bytes()
            parse_index(data, str(self._index))
            others = load_json(data, str(self._index))["manifests"]
        for other in others:
            if _key(other)[0] == name:
                del other["annotations"][REF_NAME]
        entries = {
            _key(item): item for item in [*others, {**entry, "annotations": {REF_NAME: name}}]
        }
        named = {digest for found, digest in entries if found}
        keys = sorted(key for key in entries if key[0] or key[1] not in named)
        value = {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [entries[key] for key in keys],
        }
        durable.write_file(self._index, json.dumps(value, separators=(",", ":")).encode(), _FILE)


def _key(entry: dict[str, Any]) -> tuple[str, str]:
    annotations = entry.get("annotations")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else ""
    return name if isinstance(name, str) else "", entry["digest"]


def _name(reference: Reference, digest: str) -> str:
    """Return the name of an app in a layout: its tag moves on, its digest stays."""
    if reference.tag:
        return f"{reference.name}:{reference.tag}"
    return reference.pinned(digest)
