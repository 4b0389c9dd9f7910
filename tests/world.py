"""A small world for the device tests: tiny real images, real artifacts, a real TUF repository.

Everything is written to one site directory (``metadata/``, ``targets/``, ``oci/``), as any web
server could host it. Images are a static busybox and a few files, in several layers, so that a
test takes seconds. Apps are written without ``composeapps-publish app``, which has own tests.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from securesystemslib.signer import Signer

from composeapps.oci import (
    COMPOSE_FILE,
    COMPOSE_PROJECT,
    EMPTY_TYPE,
    OCI_MANIFEST,
    Descriptor,
    digest_of,
    hex_of,
)
from composeapps.publish import keys
from composeapps.publish.repository import Repository
from composeapps.publish.signing import RoleKeys
from composeapps.release import App, Gates
from tree import tree

REGISTRY = "registry.test"
CHANNEL = "stable"
PASSWORD = "secret"
ROLES = ("root", "targets", "snapshot", "timestamp")
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
#: One service that ticks into a file on a volume, fsynced, and is healthy at once.
TICKER = """\
services:
  main:
    image: {image}
    command: [sh, -c, "trap exit TERM; echo {mark} >> /data/log; sync /data/log; \
sleep 999999 & wait"]
    stop_grace_period: 2s
    restart: unless-stopped
    volumes: ["data:/data"]
    healthcheck:
      test: [CMD, test, -s, /data/log]
      interval: 1s
      start_period: 10s
      start_interval: 200ms
volumes:
  data: {{}}
x-composeapps:
  health_timeout: 40
  settle: 1
"""
PINS = "# Written for a test.\nservices:\n  main:\n    image: {image}\n"


class World:
    """A maker's site and keys below one directory."""

    def __init__(self, directory: Path, architecture: str = "amd64", program: bytes = b"") -> None:
        """Open it, or make it.

        Args:
            architecture: of its images.
            program: busybox for that architecture; the tree's by default.
        """
        self._architecture, self._program = architecture, program
        self.site = directory / "site"
        self.blobs = self.site / "oci" / "blobs" / "sha256"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self._keys = directory / "keys"
        self._ask = keys.secrets_from({"COMPOSEAPPS_PASSWORD": PASSWORD}, None, None)
        if (self.site / "metadata").is_dir():  # a copy of a world that was made before
            self.repository = Repository(self.site)
            return
        roles = {role: RoleKeys((keys.generate(self._keys / role, PASSWORD),), 1) for role in ROLES}
        self.repository, _ = Repository.init(self.site, roles, self.signers)
        self.repository.add_channel(CHANNEL, self.signers)

    @property
    def signers(self) -> list[Signer]:
        """Everybody who can sign."""
        return [keys.load_signer(self._keys / f"{role}.pem", self._ask) for role in ROLES]

    @property
    def root(self) -> bytes:
        """The root that a device's image carries."""
        return (self.site / "metadata" / "1.root.json").read_bytes()

    def blob(self, data: bytes, media_type: str) -> Descriptor:
        """Store a blob in the layout."""
        digest = digest_of(data)
        (self.blobs / hex_of(digest)).write_bytes(data)
        return Descriptor(media_type, digest, len(data))

    def image(self, name: str, layers: Sequence[bytes], config: Mapping[str, object]) -> str:
        """Store an image made of uncompressed layer tars; return its pinned reference."""
        stored = [self.blob(gzip.compress(layer, 6, mtime=0), LAYER_TYPE) for layer in layers]
        document = {
            "architecture": self._architecture,
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        }
        described = self.blob(json.dumps(document).encode(), CONFIG_TYPE)
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described.to_json(),
            "layers": [layer.to_json() for layer in stored],
        }
        found = self.blob(json.dumps(manifest).encode(), OCI_MANIFEST)
        return f"{REGISTRY}/{name}@{found.digest}"

    def app(self, compose: str, extra: Mapping[str, str] | None = None) -> str:
        """Store an app artifact as ``docker compose publish`` writes it; return its reference."""
        files = {"compose.yaml": compose, **(extra or {})}
        layers = []
        for name, text in files.items():
            layer = self.blob(text.encode(), COMPOSE_FILE)
            value = layer.to_json() | {"annotations": {"com.docker.compose.file": name}}
            layers.append(value)
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": COMPOSE_PROJECT,
            "config": self.blob(b"{}", EMPTY_TYPE).to_json(),
            "layers": layers,
        }
        return f"{REGISTRY}/apps@{self.blob(json.dumps(manifest).encode(), OCI_MANIFEST).digest}"

    def release(self, apps: Mapping[str, str], *, gates: Gates | None = None) -> int:
        """Sign a release of artifacts by app name; return its version."""
        described = {name: App(artifact) for name, artifact in apps.items()}
        return self.repository.release(CHANNEL, described, self.signers, gates=gates).version

    @contextmanager
    def away(self) -> Iterator[None]:
        """Take the site away for a while."""
        away = self.site.with_name("site.away")
        self.site.rename(away)
        try:
            yield
        finally:
            away.rename(self.site)

    def ticker(
        self, version: int, *, size: int = 200_000, compose: str = TICKER, pinned: bool = False
    ) -> str:
        """Store an app whose image shares its base with every other version.

        Args:
            pinned: say the image in a file of its own too, as ``composeapps-publish app`` does, so
                that a machine without Compose knows it.
        """
        layers = [base_layer(self._program), noise_layer(version, size)]
        image = self.image("ticker", layers, {})
        extra = {"image-digests.yaml": PINS.format(image=image)} if pinned else {}
        return self.app(compose.format(image=image, mark=f"v{version}"), extra)


def base_layer(program: bytes = b"") -> bytes:
    """Return a layer with a static busybox under the names that tests use."""
    program = program or (tree() / "usr/bin/busybox").read_bytes()
    names = ["sh", "sleep", "sync", "test", "cat", "echo", "true", "false", "wget", "httpd", "date"]
    entries: list[tuple[tarfile.TarInfo, bytes]] = []
    for directory in ("bin", "data", "etc", "tmp"):
        entries.append((_entry(directory, tarfile.DIRTYPE, 0o755), b""))
    entries.append((_entry("bin/busybox", tarfile.REGTYPE, 0o755), program))
    for name in names:
        link = _entry(f"bin/{name}", tarfile.SYMTYPE, 0o777)
        link.linkname = "busybox"
        entries.append((link, b""))
    return tar(entries)


def noise_layer(seed: int, size: int) -> bytes:
    """Return a layer with one incompressible file of ``size`` bytes that depends on the seed."""
    data = b"".join(
        hashlib.sha256(f"{seed} {block}".encode()).digest() for block in range(size // 32)
    )
    directory = _entry("etc", tarfile.DIRTYPE, 0o755)
    return tar([(directory, b""), (_entry(f"etc/noise-{seed}", tarfile.REGTYPE, 0o644), data)])


def tar(entries: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Return a tar of entries and their content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry, data in entries:
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.mode = mode
    return entry
