"""Build the demo's images from Debian packages into one OCI image layout.

``python tests/demo/images.py OUTPUT [--architecture arm64]`` writes the layout; as root, with
mmdebstrap. The same packages and sources give the same digests. Each image is in ``index.json``
under its full name, in both annotations that tools look at.

Sources: OCI image-spec 1.1 (layout, index, manifest, config), Docker's manifest schema 2 and
its image configuration (Healthcheck), BuildKit's attestation storage, in-toto Statement v1.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "qemu")]

from demo import debian  # noqa: E402 - needs the path above
from demo.layers import Layer, pack  # noqa: E402
from demo.recipes import IMAGES, LAYERS, REGISTRY, ImageRecipe  # noqa: E402
from tree import cache_directory  # noqa: E402

CREATED = "2025-01-01T00:00:00Z"
OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"
Json = Mapping[str, object]


class Builder:
    """Writes blobs below one directory; layers are made once however many images have them."""

    def __init__(self, directory: Path, packages: debian.Pool, architecture: str) -> None:
        self._blobs = directory / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        self._packages = packages
        self._architecture = architecture
        self._layers: dict[tuple[str, ...], tuple[Layer, list[debian.Package]]] = {}

    def image(self, recipe: ImageRecipe) -> Json:
        """Write an image and return its descriptor."""
        chain = [recipe.layers[: count + 1] for count in range(len(recipe.layers))]
        layers = [self._layer(names) for names in chain]
        config = {
            "created": CREATED,
            "architecture": self._architecture,
            "os": "linux",
            "config": recipe.config,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer, _ in layers]},
            "history": [{"created": CREATED, "created_by": name} for name in recipe.layers],
        }
        manifest = self._manifest(config, [layer for layer, _ in layers], recipe.style == "docker")
        if recipe.style != "index":
            return manifest
        packages = [package for _, added in layers for package in added]
        return self._index(manifest, self._attestation(recipe, manifest, packages))

    def _layer(self, names: tuple[str, ...]) -> tuple[Layer, list[debian.Package]]:
        if names not in self._layers:
            recipe = LAYERS[names[-1]]
            below = [self._layer(names[:count])[1] for count in range(1, len(names))]
            present = [package.name for packages in below for package in packages]
            packages = self._packages.closure(recipe.packages, present)
            tree = {**self._packages.tree(packages), **recipe.files}
            self._layers[names] = pack(tree, recipe.media_type), packages
        return self._layers[names]

    def _manifest(self, config: Json, layers: Iterable[Layer], docker: bool) -> Json:
        kind = f"{DOCKER}.distribution.manifest.v2+json" if docker else f"{OCI}.manifest.v1+json"
        config_type = f"{DOCKER}.container.image.v1+json" if docker else f"{OCI}.config.v1+json"
        docker_layer = f"{DOCKER}.image.rootfs.diff.tar.gzip"
        manifest = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": self._json(config, config_type),
            "layers": [
                self.blob(layer.data, docker_layer if docker else layer.media_type)
                for layer in layers
            ],
        }
        return self._json(manifest, kind)

    def _index(self, manifest: Json, attestation: Json) -> Json:
        platform = {"os": "linux", "architecture": self._architecture}
        notes = {
            "vnd.docker.reference.digest": manifest["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        }
        unknown = {"os": "unknown", "architecture": "unknown"}
        index = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.index.v1+json",
            "manifests": [
                {**manifest, "platform": platform},
                {**attestation, "annotations": notes, "platform": unknown},
            ],
        }
        return self._json(index, f"{OCI}.index.v1+json")

    def _attestation(
        self, recipe: ImageRecipe, manifest: Json, packages: Iterable[debian.Package]
    ) -> Json:
        contents = {
            "spdxVersion": "SPDX-2.3",
            "name": recipe.name,
            "packages": [{"name": item.name, "versionInfo": item.version} for item in packages],
        }
        digest = str(manifest["digest"]).removeprefix("sha256:")
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": f"{REGISTRY}/{recipe.name}", "digest": {"sha256": digest}}],
            "predicateType": "https://spdx.dev/Document",
            "predicate": contents,
        }
        data = json.dumps(statement, sort_keys=True).encode()
        layer = self.blob(data, "application/vnd.in-toto+json")
        note = {"in-toto.io/predicate-type": "https://spdx.dev/Document"}
        rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
        config = {"architecture": "unknown", "os": "unknown", "config": {}, "rootfs": rootfs}
        document = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self._json(config, f"{OCI}.config.v1+json"),
            "layers": [{**layer, "annotations": note}],
        }
        return self._json(document, f"{OCI}.manifest.v1+json")

    def _json(self, value: Json, media_type: str) -> Json:
        return self.blob(json.dumps(value, indent=2, sort_keys=True).encode(), media_type)

    def blob(self, data: bytes, media_type: str) -> Json:
        """Write a blob and return its descriptor."""
        name = hashlib.sha256(data).hexdigest()
        (self._blobs / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}


def build(directory: Path, packages: debian.Pool, architecture: str) -> None:
    """Write the layout with all images into a directory that does not exist yet."""
    builder = Builder(directory, packages, architecture)
    manifests = []
    for recipe in IMAGES:
        name = f"{REGISTRY}/{recipe.name}"
        notes = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
        manifests.append({**builder.image(recipe), "annotations": notes})
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": manifests}
    (directory / "index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def layout(architecture: str = "") -> Path:
    """Return the cached layout's directory, built if sources or packages have changed.

    Raises:
        subprocess.CalledProcessError: mmdebstrap failed; its output is on stderr.
    """
    architecture = architecture or debian.host_architecture()
    names = {name for recipe in LAYERS.values() for name in recipe.packages}
    packages = debian.pool(names, architecture)
    key = _key(packages)
    final = cache_directory() / f"images-{architecture}-{key[:12]}"
    with (final.parent / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.exists():
            print("making the demo's images ...", file=sys.stderr, flush=True)
            temporary = final.with_name(f".tmp-{final.name}")
            shutil.rmtree(temporary, ignore_errors=True)
            build(temporary, packages, architecture)
            os.replace(temporary, final)
    return final


def references(directory: Path) -> Mapping[str, str]:
    """Return the digest of each image of a layout by its full name."""
    index = json.loads((directory / "index.json").read_text())
    key = "io.containerd.image.name"
    return {entry["annotations"][key]: entry["digest"] for entry in index["manifests"]}


def _key(packages: debian.Pool) -> str:
    digest = hashlib.sha256(packages.key.encode())
    code = [HERE / f"{name}.py" for name in ("debian", "images", "layers", "recipes")]
    for path in sorted([*code, *(path for path in HERE.glob("sources/*/*") if path.is_file())]):
        digest.update(f"{path.relative_to(HERE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    """Copy the layout to where the command line says."""
    parser = argparse.ArgumentParser(description="Build the demo's images as an OCI layout.")
    parser.add_argument("output", type=Path, help="directory to write, must not exist")
    parser.add_argument("--architecture", default="", help="like arm64; else this machine's")
    options = parser.parse_args()
    if options.output.exists():
        parser.error(f"{options.output} exists already; give a new directory")
    shutil.copytree(layout(options.architecture), options.output)
    for name, digest in references(options.output).items():
        print(f"{name}@{digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
