"""Seal every layer of some images, so that a device never meets one that it cannot seal.

Sealed layers are kept in a store of the maker's machine, by the version of ``mkfs.erofs`` and the
compression, so that publishing again, sizes and preloading cost little.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from composeapps import durable
from composeapps.config import SealSettings
from composeapps.errors import ConfigError, IntegrityError, SealError
from composeapps.images import Image, Layer
from composeapps.publish.content import Content, Say, mib, short
from composeapps.seal import check_tool, seal
from composeapps.store import SealedLayer, Store, verify_layer


@dataclass
class Sealer:
    """Seals images into one store; a layer that is there already is verified once and taken."""

    store: Store
    settings: SealSettings
    say: Say
    _good: dict[Path, SealedLayer] = field(default_factory=dict)

    @classmethod
    def cached(cls, cache: Path, settings: SealSettings, say: Say) -> Sealer:
        """Return a sealer whose layers stay in a cache directory; raises ConfigError."""
        root = cache / f"sealed-{check_tool()}-{settings.compression}"
        try:
            durable.make_dir(root / "layers")
        except OSError as error:
            raise ConfigError(f"{root} cannot be used as cache: {error.strerror}") from error
        return cls(Store(root), settings, say)

    def seal(self, image: Image, content: Content) -> list[SealedLayer]:
        """Return an image's sealed layers from the bottom up, made where they are missing.

        Raises:
            SealError: a layer cannot be sealed exactly; names image, layer, entry and reason.
            SourceError, IntegrityError: a layer could not be had.
            SpaceError: the cache is full.
        """
        done: list[SealedLayer] = []
        for layer in image.layers:
            done.append(self._find(layer) or self._make(image, layer, done, content))
        return done

    def _find(self, layer: Layer) -> SealedLayer | None:
        found = self.store.find_layer(layer.diff_id, layer.chain_id)
        if found is None or found.path in self._good:
            return found
        if not verify_layer(found):
            durable.remove(found.path)
            return None
        self._good[found.path] = found
        return found

    def _make(
        self, image: Image, layer: Layer, below: list[SealedLayer], content: Content
    ) -> SealedLayer:
        descriptor = layer.descriptor
        with (
            content.file(image.reference, descriptor) as blob,
            tempfile.TemporaryDirectory(dir=self.store.root) as scratch,
        ):
            self.say(f"sealing {short(layer.diff_id)} of {image.reference.name}")
            output = Path(scratch, "layer")
            lower = [sealed.path for sealed in below]
            try:
                sealed = seal(lambda: blob.open("rb"), layer.diff_id, lower, output, self.settings)
            except (SealError, IntegrityError) as error:
                name = f"image {image.reference.pinned()} for {image.platform}"
                raise type(error)(f"{name}: {error}") from error
            chain_id = layer.chain_id if sealed.chain_dependent else ""
            found = self.store.adopt_layer(output, layer.diff_id, chain_id, sealed.digest)
        self.say(f"sealed {short(layer.diff_id)}: {mib(descriptor.size)} to {mib(sealed.size)}")
        self._good[found.path] = found
        return found


def copy_layers(layers: Iterable[SealedLayer], target: Path) -> None:
    """Copy verified sealed layers under their own names."""
    for layer in layers:
        copy = target / layer.path.name
        if not copy.exists():
            shutil.copyfile(layer.path, copy)
            copy.chmod(0o644)
