"""The peer's device: stock Docker and Compose on the same root image, engine, kernel and disk.

Its maker pushes to a registry and moves a tag; a unit pulls and ups at boot. No part of composeapps
runs. What the data partition gets (growing, checking) is the same: the image brings it to both.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import vmworld
from registryserver import DockerRegistry
from world import World, base_layer, noise_layer

import image
from bench.published import Pusher
from composeapps.config import RegistrySettings, Settings
from composeapps.oci import hex_of
from composeapps.registry import registry_client
from composeapps.transport import Transport
from disk import Disk

#: Docker's own two stores; the first is the default of the engine that the image has.
STORES = ("classic", "containerd")
REGISTRY = f"{image.HOST_ADDRESS}:{vmworld.PORT}"
TAG = f"{REGISTRY}/ticker:stable"
#: The device's file stays as it is; which version runs is the image's matter, by its environment.
COMPOSE = vmworld.PATIENT.format(image=TAG, mark="$$MARK").replace(
    "[CMD, test, -s, /data/log]", '[CMD-SHELL, "test $$MARK != bad && test -s /data/log"]'
)
UPDATE = """\
#!/bin/sh
say() { printf '\\nrelease 2 is %s\\n' "$1" >/dev/console; }
cd /etc/peer
say pulling
docker-compose -p a pull --quiet && say starting && docker-compose -p a up -d && say started
"""
UNIT = """\
[Unit]
Description=Pull and run the newest images
Wants=docker.service
After=docker.service
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/bin/sh /etc/peer/update
Environment=HOME=/root
Restart=on-failure
RestartSec=10

[Install]
WantedBy=multi-user.target
"""
PRESET = """\
disable composeapps-mount.service
disable composeapps-start.service
disable composeapps.service
enable peer.service
"""
#: Bytes of an update's own layer, on both sides of a campaign.
SIZE = 2_500_000
#: The mark of each version, and the number and size in bytes of its own layer.
VERSIONS = {"old": ("v1", 1, 200_000), "good": ("v2", 2, SIZE), "bad": ("bad", 2, SIZE)}


class Registry(DockerRegistry):
    """The maker's registry, with the address that a relay wants."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens on this machine."""
        return "127.0.0.1", self.port


class Releases:
    """Registries in which the tag has moved to one of the versions, and what these are."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: The engine's IDs of each version's image: its config, or its manifest.
        self.ids: dict[str, list[str]] = {}
        #: What files of each version's image hold, as ``ask.py content`` says it.
        self.content: dict[str, dict[str, str]] = {}
        world = World(directory / "world")
        for name in VERSIONS:
            if name != "old":
                shutil.copytree(directory / "old", directory / name)
            self._publish(world, name)

    def _publish(self, world: World, name: str) -> None:
        mark, seed, size = VERSIONS[name]
        layers = [base_layer(), noise_layer(seed, size)]
        reference = world.image("ticker", layers, {"Env": [f"MARK={mark}"]})
        digest = reference.partition("@")[2]
        manifest = json.loads((world.blobs / hex_of(digest)).read_bytes())
        self.ids[name] = [digest, manifest["config"]["digest"]]
        self.content[name] = _files(layers)
        with Registry(self.directory / name) as server:
            settings = Settings(registry={server.netloc: RegistrySettings(insecure=True)})
            transport = Transport(30)
            try:
                client = registry_client(server.netloc, settings, transport)
                Pusher(client, server.netloc).push_from(
                    world.site / "oci", digest, TAG.partition("/")[2]
                )
            finally:
                transport.close()

    def open(self, name: str) -> Registry:
        """Start the registry whose tag names a version."""
        return Registry(self.directory / name)


def _files(layers: list[bytes]) -> dict[str, str]:
    found = {}
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
            for entry in archive:
                stream = archive.extractfile(entry) if entry.isreg() else None
                if stream is not None:
                    found[entry.name] = hashlib.sha256(stream.read()).hexdigest()
    return found


def device_disk(path: Path, store: str) -> Disk:
    """Write the disk of a device that has no agent and no app yet, with one of ``STORES``."""
    settings = json.loads((image.AGENT / "system/files/etc/docker/daemon.json").read_text())
    settings["features"]["containerd-snapshotter"] = store == "containerd"
    settings["insecure-registries"] = [REGISTRY]
    files = {
        "etc/docker/daemon.json": json.dumps(settings),
        "etc/peer/compose.yaml": COMPOSE,
        "etc/peer/update": UPDATE,
        "etc/systemd/system/peer.service": UNIT,
        "usr/lib/systemd/system-preset/40-peer.preset": PRESET,
    }
    inputs = image.Inputs(files={name: text.encode() for name, text in files.items()})
    image.write_disk(image.root_image(inputs), path, vmworld.DISK_SIZE)
    return Disk(path)


def judge_content(found: list[dict[str, str]], releases: Releases) -> list[str]:
    """Say what of a running container's tree is not what its image holds (law L2)."""
    known = list(releases.content.values())
    return [
        f"L2: a container sees {files}" for files in found
        if files and files not in known
    ]  # fmt: skip
