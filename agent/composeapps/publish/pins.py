"""Which images a finished app pins, read without Compose, for machines that have none.

Both publishers, ours and ``docker compose publish --resolve-image-digests``, put a last Compose
file into the artifact that says every service's image by its digest. Whether Compose agrees was
judged when the release was signed; here only that the file leaves no service of the others out.
"""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from composeapps.artifact import Artifact
from composeapps.errors import ConfigError
from composeapps.oci import Reference
from composeapps.publish.artifact import PINS, Packed
from composeapps.publish.references import load


def pinned_images(packed: Packed, parsed: Artifact) -> list[str] | None:
    """Return the images of all services, pinned; None where only Compose can tell.

    Raises:
        ConfigError: a file of the app is not YAML.
    """
    *others, last = parsed.compose
    if posixpath.basename(last.name) != PINS:
        return None
    found = [_services(packed, file.descriptor.digest) for file in (*others, last)]
    pins = {name: str((service or {}).get("image", "")) for name, service in found[-1].items()}
    if any(services.keys() - pins.keys() for services in found[:-1]):
        return None
    references = [_reference(image) for image in pins.values()]
    if not references or not all(reference and reference.digest for reference in references):
        return None
    return sorted({reference.pinned() for reference in references if reference})


def _services(packed: Packed, digest: str) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(prefix="composeapps-") as file:
        file.write(packed.blobs[digest])
        file.flush()
        found: dict[str, Any] = {}
        for document in load(Path(file.name)):
            services = document.get("services")
            found |= services if isinstance(services, Mapping) else {}
    return found


def _reference(text: str) -> Reference | None:
    try:
        return Reference.parse(text)
    except ConfigError:
        return None
