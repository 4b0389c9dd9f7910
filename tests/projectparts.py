"""What the tests of publishing projects share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from stock import program

from composeapps.oci import Platform
from composeapps.publish import artifact as making
from composeapps.publish.project import Loaded, Sources, load

COMPOSE = program("docker-compose", os.environ.get("ENGINE", ""))
AMD64 = Platform("linux", "amd64")
DIGEST = "a" * 64
MINIMAL = "services: {web: {image: nginx}}\n"


def publish(directory: Path, *files: str, **options: Any) -> tuple[Loaded, making.Packed]:
    """Load, pack and verify a project; images are pinned to made-up digests."""
    platforms = options.pop("platforms", [AMD64])
    limit = options.pop("limit", 1024**2)
    loaded = load(Sources(directory, files, **options), COMPOSE, platforms)
    pins = {name: f"registry.test/{name.lower()}@sha256:{DIGEST}" for name in loaded.images}
    packed = making.make(loaded, pins, platforms, limit)
    making.verify(packed, loaded, pins, COMPOSE)
    return loaded, packed


def unpacked(packed: making.Packed, directory: Path) -> dict[str, Any]:
    """Unpack as a device does; return Compose's model."""
    directory.mkdir()
    return making.read(packed, directory, COMPOSE)


def notes(loaded: Loaded) -> list[str]:
    return [str(note) for note in loaded.needs.notes]
