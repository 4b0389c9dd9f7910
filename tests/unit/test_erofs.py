"""Sealed layers read back: by our own reader, undamaged and damaged."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import layers as maker
import odd
import pytest
from layers import directory, file, symlink, tar, xattrs
from mkfs import directory_with_mkfs
from trees import Layer, applied, of_image, of_tree, opener

from composeapps import rootpath
from composeapps.config import SealSettings
from composeapps.erofs import Image
from composeapps.errors import IntegrityError
from composeapps.rootpath import MISSING, Effort
from composeapps.seal import check_tool, seal


@pytest.fixture(autouse=True, scope="module")
def newer_mkfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put the tree's mkfs.erofs first in PATH."""
    with pytest.MonkeyPatch.context() as patch:
        place = directory_with_mkfs(tmp_path_factory.mktemp("mkfs"))
        patch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        check_tool.cache_clear()
        yield
    check_tool.cache_clear()


def sealed(place: Path, *layers: bytes, compression: str = "lz4hc") -> list[Path]:
    """Seal a chain of layers; return the files from the bottom up."""
    files: list[Path] = []
    for layer in layers:
        blob, output = place / "blob", place / f"{len(files)}.erofs"
        blob.write_bytes(layer)
        settings = SealSettings(compression=compression)
        seal(opener(blob), maker.digest(layer), files, output, settings)
        files.append(output)
    return files


@pytest.mark.parametrize("compression", ["lz4hc", "none"])
@pytest.mark.parametrize("name", odd.IMAGES)
def test_what_is_sealed_is_what_was_worked_out(name: str, compression: str, tmp_path: Path) -> None:
    """mkfs.erofs keeps every name and attribute of the tree that it is handed."""
    layers = [] if name.startswith("first") else [odd.base(b"program")]
    layers += odd.IMAGES[name][:4]
    files = sealed(tmp_path, *layers, compression=compression)
    below: list[Layer] = []
    for layer, path in zip(layers, files, strict=True):
        tree = applied(layer, below).tree
        with Image(path) as image:
            assert of_image(image) == of_tree(tree)
        below.insert(0, Layer(tree))


def test_lookups_in_a_large_directory(tmp_path: Path) -> None:
    """Names are found, and those that are not there are not, in a directory of many blocks."""
    names = [b"%d" % (number * 7) for number in range(3000)] + [b"\xff", b"!", b"n" * 255]
    layer = tar(directory("d"), *(maker.pax({"path": b"d/" + n}) + file("x", b"") for n in names))
    (path,) = sealed(tmp_path, layer)
    with Image(path) as image:
        node = image.child(image.root, b"d")
        assert sorted(name for name, _ in image.entries(node)) == sorted(names)
        for name in names:
            assert image.child(node, name) != MISSING
        for name in (b"1", b"", b"0 ", b"n" * 254, b"\xff\xff", b"20994x"):
            assert image.child(node, name) == MISSING


def test_lookup_resolves_links_inside(tmp_path: Path) -> None:
    layer = tar(
        xattrs({"user.a": b"1", "security.b": b"\0"}),
        directory("a", mode=0o1750, uid=70_000, mtime=2**33),
        directory("a/b"),
        symlink("l", "/a/../a"),
        symlink("out", "../../a/b"),
        symlink("round", "round"),
        file("f"),
    )
    (path,) = sealed(tmp_path, layer)
    with Image(path) as image:
        found = image.lookup(b"/l", Effort())
        assert found is not None
        assert (found.mode, found.uid, found.mtime) == (0o41750, 70_000, 2**33 * 10**9)
        assert found.xattrs == {b"user.a": b"1", b"security.b": b"\0"}
        assert image.lookup(b"/out", Effort()) == image.lookup(b"/l/b", Effort())
        assert image.lookup(b"/l/c", Effort()) is None
        for path_of_error in (b"/f/x", b"/round/x"):
            with pytest.raises(rootpath.PathError):
                image.lookup(path_of_error, Effort())


@pytest.mark.parametrize("data", [b"", b"short", b"not an image" * 1000, bytes(8192)])
def test_what_is_no_image(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.erofs"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="is damaged"):
        Image(path)


def test_a_damaged_layer_is_an_answer(tmp_path: Path, rng: random.Random) -> None:
    """Wrong bytes anywhere in the metadata end in IntegrityError or another tree, soon."""
    layer = odd.base(b"program")
    (path,) = sealed(tmp_path, layer)
    good = path.read_bytes()
    with Image(path) as image:
        expected = of_image(image)
    damaged = refused = 0
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(1024, len(data))] = rng.choice([0, 0xFF, rng.randrange(256)])
        if rng.random() < 0.1:
            del data[rng.randrange(1024, len(data)) :]
        path.write_bytes(data)
        try:
            with Image(path) as image:
                damaged += _walk(image) != expected
        except IntegrityError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 100
    assert damaged > 100


def _walk(image: Image) -> object:
    """Look some paths up and read everything."""
    for path in (b"/old/noted", b"/way/est", b"/bin/busybox", b"/deep/er/est/file"):
        try:
            image.lookup(path, Effort(1000))
        except rootpath.PathError:
            continue
    return of_image(image, limit=200)
