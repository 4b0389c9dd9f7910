"""Content for tests, in memory: images, indexes, Compose artifacts, and tars of any kind."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from composeapps.oci import (
    COMPOSE_ENVFILE,
    COMPOSE_FILE,
    COMPOSE_FILES_TAR,
    COMPOSE_PROJECT,
    EMPTY_TYPE,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Reference,
    digest_of,
)

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
LINUX = {"os": "linux", "architecture": "amd64"}


class Blobs(dict[str, bytes]):
    """Blobs by digest; what is put in gets a descriptor."""

    def put(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        """Add content and return its descriptor as JSON."""
        self[digest_of(data)] = data
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}

    def put_json(self, value: Any, media_type: str, **more: Any) -> dict[str, Any]:
        """Add a JSON document and return its descriptor as JSON."""
        return self.put(json.dumps(value).encode(), media_type, **more)

    def read(self, reference: Reference, digest: str, limit: int, kind: str) -> bytes:
        """Be an ``images.Read``."""
        return self[digest]

    def open(self, blob: Descriptor) -> io.BytesIO:
        """Be a ``projectdir.OpenBlob``."""
        return io.BytesIO(self[blob.digest])

    def image(
        self,
        layers: Sequence[bytes] = (),
        /,
        platform: Mapping[str, str] = LINUX,
        *,
        layer_type: str = OCI_LAYER,
        config: Mapping[str, Any] | None = None,
        **manifest: Any,
    ) -> dict[str, Any]:
        """Add an image of uncompressed layer tars and return its manifest's descriptor."""
        value: dict[str, Any] = {
            **platform,
            "config": dict(config or {}),
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        }
        packed = [self.put(gzip.compress(layer, 6, mtime=0), layer_type) for layer in layers]
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.put_json(value, OCI_CONFIG),
            "layers": packed,
            **manifest,
        }
        return self.put_json(document, OCI_MANIFEST, platform=dict(platform))

    def index(self, entries: Iterable[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        """Add an index and return its descriptor."""
        value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
        return self.put_json(value, OCI_INDEX, **more)

    def artifact(self, layers: Iterable[Mapping[str, Any]], **manifest: Any) -> dict[str, Any]:
        """Add a Compose artifact's manifest and return its descriptor."""
        value = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": COMPOSE_PROJECT,
            "config": self.put(b"{}", EMPTY_TYPE),
            "layers": list(layers),
            **manifest,
        }
        return self.put_json(value, OCI_MANIFEST)

    def compose_file(self, text: str, name: str = "compose.yaml", **more: str) -> dict[str, Any]:
        """Add a Compose file as Docker's own layer type."""
        annotations = {"com.docker.compose.file": name, **more}
        return self.put(text.encode(), COMPOSE_FILE, annotations=annotations)

    def env_file(self, text: str, name: str) -> dict[str, Any]:
        """Add an env file as Docker's own layer type."""
        annotations = {"com.docker.compose.envfile": name}
        return self.put(text.encode(), COMPOSE_ENVFILE, annotations=annotations)

    def files_tar(self, data: bytes) -> dict[str, Any]:
        """Add a tar as our layer type."""
        return self.put(data, COMPOSE_FILES_TAR)


def write_layout(directory: Path, blobs: Blobs, entries: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write an OCI image layout as builders do; entries by the name they are given in it."""
    folder = directory / "blobs" / "sha256"
    folder.mkdir(parents=True, exist_ok=True)
    for digest, data in blobs.items():
        (folder / digest.removeprefix("sha256:")).write_bytes(data)
    manifests = [
        {**entry, "annotations": {"org.opencontainers.image.ref.name": name}}
        for name, entry in entries.items()
    ]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return directory


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Make one tar entry; ``fields`` are those of ``tarfile.TarInfo``."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], dialect: int = tarfile.USTAR_FORMAT) -> bytes:
    """Write entries just as they are, in order."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=dialect) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return output.getvalue()
