"""The root image itself: the same inputs give the same bytes; what is in it and how large it is."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import vmworld
import yoctodevice

import devicetree
import image
import tree

pytestmark = pytest.mark.skipif(
    yoctodevice.ASKED, reason="about how qemu/image.py makes its image; bitbake makes the other"
)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def inputs() -> image.Inputs:
    settings = vmworld.SETTINGS + vmworld.QUIET
    return image.Inputs(vmworld.factory_world() / "factory", settings=settings)


def test_the_same_inputs_give_the_same_root_image(
    inputs: image.Inputs, root_image: Path, tmp_path: Path
) -> None:
    base = devicetree.device_tree()
    # Below the cache, for hard links to the tree.
    again = root_image.with_name(f"again-{os.getpid()}.erofs")
    try:
        image.make_root_image(inputs, base, again)
        assert digest(again) == digest(root_image)
    finally:
        again.unlink(missing_ok=True)


def test_a_tree_made_anew_gives_the_same_root_image(inputs: image.Inputs, root_image: Path) -> None:
    place = root_image.with_name(f"again-{os.getpid()}")
    try:
        devicetree.make(devicetree.SUITE, place)
        image.make_root_image(inputs, place, place / "root.erofs")
        assert digest(place / "root.erofs") == digest(root_image)
    finally:
        tree.remove(place)


def test_the_root_image_is_small(root_image: Path) -> None:
    print(f"the root image has {root_image.stat().st_size / 1024**2:.0f} MiB")
    assert root_image.stat().st_size < 256 * 1024**2


def test_another_setting_is_another_image(inputs: image.Inputs) -> None:
    other = image.Inputs(inputs.factory, settings=inputs.settings + "# other\n")
    assert other.key() != inputs.key()


def test_a_disk_that_is_too_small_is_refused(root_image: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no room"):
        image.write_disk(root_image, tmp_path / "disk", 300 * 1024**2)
