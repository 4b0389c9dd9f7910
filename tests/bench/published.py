"""What the sides pull: the demo's images, and a large one, in a real registry; and the projects.

The registry's files are made once; each testbed runs ``docker-registry`` on them, on PORT.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from registryserver import DockerRegistry

from composeapps.config import RegistrySettings, Settings
from composeapps.oci import OCI_INDEX, OCI_MANIFEST, Reference
from composeapps.registry import RegistryClient, registry_client
from composeapps.transport import Transport
from demo import images, recipes
from demo.layers import file as file_entry
from demo.layers import pack
from demo.projects import write_project
from tree import tree

PORT = 5000
REGISTRY = f"127.0.0.1:{PORT}"
BULK_FILE = "/srv/bulk"
#: One service that is healthy at once and does nothing; its image holds a large file.
BULK = f"""\
services:
  bulk:
    image: {REGISTRY}/bulk:1
    entrypoint: [sleep, infinity]
    init: true
    stop_grace_period: 1s
    healthcheck: {{test: [CMD, "true"], interval: 5s, start_period: 9s, start_interval: 200ms}}
"""
Json = dict[str, Any]


def publish_images(directory: Path, bulk_size: int) -> None:
    """Fill a registry's directory with every image the projects name.

    Args:
        bulk_size: bytes of the large file; real programs' bytes, so that they compress as such.
    """
    layout = images.layout()
    with DockerRegistry(directory) as server:
        settings = Settings(registry={server.netloc: RegistrySettings(insecure=True)})
        transport = Transport(30)
        try:
            pusher = Pusher(registry_client(server.netloc, settings, transport), server.netloc)
            for name, digest in images.references(layout).items():
                pusher.push_from(layout, digest, name.rpartition("/")[2])
            base = images.references(layout)[f"{recipes.REGISTRY}/telemetry:1"]
            pusher.push_bulk(layout, base, bulk_size)
        finally:
            transport.close()


def write(name: str, version: int, directory: Path) -> Path:
    """Write one of the projects to ``directory / name`` as a maker who uses the registry has it."""
    if name == "bulk":
        project = directory / name
        project.mkdir(exist_ok=True)
        (project / "compose.yaml").write_text(BULK)
        return project
    project = write_project(name, version, directory)
    compose = project / "compose.yaml"
    compose.write_text(compose.read_text().replace(f"{recipes.REGISTRY}/", f"{REGISTRY}/"))
    return project


def registry_config(directory: Path, data: Path) -> Path:
    """Write and return a configuration of ``docker-registry`` for a testbed's network."""
    path = directory / "registry.yml"
    path.write_text(
        "version: 0.1\nlog: {level: warn}\n"
        f"storage: {{filesystem: {{rootdirectory: {data}}}}}\n"
        f"http: {{addr: '{REGISTRY}', secret: not-secret}}\n"
    )
    return path


class Pusher:
    """Copies images to a registry."""

    def __init__(self, client: RegistryClient, registry: str) -> None:
        self._client = client
        self._registry = registry

    def push_from(self, layout: Path, digest: str, name: str) -> None:
        """Push an image of a layout under ``repository:tag``, attestations too."""
        reference = Reference.parse(f"{self._registry}/{name}")
        document = json.loads(_blob(layout, digest))
        for entry in document.get("manifests", ()):
            self._push_blobs(layout, json.loads(_blob(layout, entry["digest"])), reference)
            data = _blob(layout, entry["digest"])
            self._client.push_manifest(_untagged(reference), data, OCI_MANIFEST)
        if "manifests" not in document:
            self._push_blobs(layout, document, reference)
        kind = document.get("mediaType", OCI_INDEX)
        self._client.push_manifest(reference, _blob(layout, digest), kind)

    def _push_blobs(self, layout: Path, manifest: Json, reference: Reference) -> None:
        for item in (manifest["config"], *manifest["layers"]):
            self._push_blob(reference, _blob(layout, item["digest"]))

    def _push_blob(self, reference: Reference, data: bytes) -> Json:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self._client.push_blob(_untagged(reference), digest, len(data), io.BytesIO(data))
        return {"digest": digest, "size": len(data)}

    def push_bulk(self, layout: Path, base: str, size: int) -> None:
        """Push an image with one more layer: a large file."""
        reference = Reference.parse(f"{self._registry}/bulk:1")
        layer = pack({BULK_FILE.lstrip("/"): file_entry(_programs(size))})
        manifest = json.loads(_blob(layout, base))
        self._push_blobs(layout, manifest, reference)
        config = json.loads(_blob(layout, manifest["config"]["digest"]))
        config["rootfs"]["diff_ids"].append(layer.diff_id)
        config.pop("history", None)
        data = json.dumps(config).encode()
        manifest["config"] |= self._push_blob(reference, data)
        pushed = self._push_blob(reference, layer.data)
        manifest["layers"].append({"mediaType": layer.media_type, **pushed})
        self._client.push_manifest(reference, json.dumps(manifest).encode(), manifest["mediaType"])


def _untagged(reference: Reference) -> Reference:
    return Reference(reference.registry, reference.repository)


def _blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()


def _programs(size: int) -> bytes:
    """Return the first bytes of the tree's programs and libraries."""
    data = bytearray()
    for path in sorted((tree() / "usr").rglob("*")):
        if len(data) >= size:
            break
        if path.is_file() and not path.is_symlink():
            data += path.read_bytes()[: size - len(data)]
    return bytes(data)
