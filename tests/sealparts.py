"""What the tests of sealing share."""

from __future__ import annotations

import os
from pathlib import Path

import layers as maker
from layers import directory, file, hard_link, symlink, tar
from trees import opener

from composeapps import seal
from composeapps.config import SealSettings

LAYER = tar(
    directory("d"), file("d/f", b"data" * 10_000), hard_link("d/g", "d/f"), symlink("l", "d")
)


SETTINGS = SealSettings()


def sealed(
    place: Path,
    layer: bytes = LAYER,
    diff_id: str = "",
    packed: bytes | None = None,
    settings: SealSettings = SETTINGS,
) -> tuple[seal.Sealed, bytes]:
    """Seal one layer as the first of its chain; an error must leave nothing but the blob."""
    blob, output = place / "blob", place / "output"
    blob.write_bytes(layer if packed is None else packed)
    diff_id = diff_id or maker.digest(layer)
    try:
        result = seal.seal(opener(blob), diff_id, [], output, settings)
    except BaseException:
        assert os.listdir(place) == ["blob"]
        raise
    return result, output.read_bytes()
