"""Sealing as a whole: the same bytes every time, clear answers, and nothing left behind."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import layers as maker
import odd
import pytest
import zstandard
from layers import file, hard_link, tar
from sealparts import LAYER, SETTINGS, sealed
from trees import opener

from composeapps import erofstool, layertree, seal
from composeapps.config import SealSettings
from composeapps.errors import IntegrityError, SealError, SpaceError

#: One that has to be read twice: its hard link changes a file that was read before.
REWRITTEN = tar(file("f", b"data" * 10_000), hard_link("g", "f", mode=0o600))


pytestmark = pytest.mark.usefixtures("newer_mkfs")


def test_result(tmp_path: Path) -> None:
    result, data = sealed(tmp_path)
    assert result.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert (result.size, result.unpacked, result.entries) == (len(data), 40_000, 4)
    assert not result.chain_dependent
    assert os.listdir(tmp_path) in (["blob", "output"], ["output", "blob"])


@pytest.mark.parametrize("compression", ["lz4hc", "lz4", "none"])
def test_the_same_bytes_every_time(compression: str, tmp_path: Path) -> None:
    """However the layer is packed, whoever seals it, at whatever time and place."""
    layer = odd.IMAGES["contents"][0]
    settings = SealSettings(compression=compression)
    results = []
    for pack in (maker.plain, maker.gzipped, maker.zstd_in_frames, maker.gzipped_in_members):
        place = tmp_path / pack.__name__
        place.mkdir()
        results.append(sealed(place, layer, packed=pack(layer), settings=settings))
    assert results[1:] == results[:1] * 3


@pytest.mark.parametrize(("layer", "readings"), [(LAYER, 1), (REWRITTEN, 2)])
def test_a_layer_is_read_again_only_where_it_has_to_be(
    layer: bytes, readings: int, tmp_path: Path
) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(layer)
    opened = []

    def open_blob() -> BinaryIO:
        opened.append(blob.open("rb"))
        return opened[-1]

    seal.seal(open_blob, maker.digest(layer), [], tmp_path / "output", SETTINGS)
    assert [file.closed for file in opened] == [True] * readings


def test_reading_twice_gives_what_reading_once_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = sealed(tmp_path, odd.IMAGES["first ustar"][0])
    (tmp_path / "output").unlink()
    init = layertree.Applier.__init__

    def rewriting(self: layertree.Applier, *arguments: Any) -> None:
        init(self, *arguments)
        self.rewrites = True

    monkeypatch.setattr(layertree.Applier, "__init__", rewriting)
    assert sealed(tmp_path, odd.IMAGES["first ustar"][0]) == once


def test_compression_makes_it_smaller(tmp_path: Path) -> None:
    sizes = [
        sealed(tmp_path, settings=SealSettings(compression=way))[0].size for way in ("none", "lz4")
    ]
    assert sizes[0] > sizes[1] + 30_000


@pytest.mark.parametrize("pack", [maker.plain, maker.gzipped, maker.zstd])
def test_another_diff_id(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=f"layer {maker.digest(b'')}: its bytes are those of"):
        sealed(tmp_path, diff_id=maker.digest(b""), packed=pack(LAYER))


def test_damage_is_told_before_what_the_damage_makes_of_the_layer(tmp_path: Path) -> None:
    """Wrong bytes in the first header would be a refusal, if the diff ID had not been wrong."""
    with pytest.raises(IntegrityError, match="its bytes are those of"):
        sealed(tmp_path, packed=b"\x01" + LAYER[1:])


@pytest.mark.parametrize("cut", [1, 8, 100])
def test_gzip_cut_off(cut: int, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="gzip stream is cut off"):
        sealed(tmp_path, packed=maker.gzipped(LAYER)[:-cut])


@pytest.mark.parametrize("at", [20, -5, -1])
def test_gzip_damaged(at: int, tmp_path: Path) -> None:
    packed = bytearray(maker.gzipped(LAYER))
    packed[at] ^= 0x55
    with pytest.raises(IntegrityError):
        sealed(tmp_path, packed=bytes(packed))


def test_garbage_after_compressed_data(tmp_path: Path) -> None:
    for pack in (maker.gzipped, maker.zstd):
        with pytest.raises(IntegrityError, match="damaged"):
            sealed(tmp_path, packed=pack(LAYER) + b"garbage, and more of it")


def test_zstd_windows(tmp_path: Path) -> None:
    """A window that would break the bound on memory is refused, from the header alone."""
    for power in (20, 27, 28):
        parameters = zstandard.ZstdCompressionParameters(window_log=power, enable_ldm=True)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        packed = compressor.compress(LAYER) + compressor.flush()
        if power <= 27:
            assert sealed(tmp_path, packed=packed)[0].entries == 4
            (tmp_path / "output").unlink()
        else:
            with pytest.raises(SealError, match="128 MiB"):
                sealed(tmp_path, packed=packed)
    small, large = (
        zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(window_log=power)
        ).compressobj()
        for power in (20, 27)
    )
    packed = small.compress(LAYER[:5000]) + small.flush() + large.compress(LAYER[5000:])
    with pytest.raises(SealError, match="a later zstd frame"):
        sealed(tmp_path, packed=packed + large.flush())


@pytest.mark.parametrize("pack", [maker.gzipped, maker.zstd])
def test_bombs(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """What unpacks to more than the limit is refused, without unpacking all of it."""
    layer = tar(file("zeros", bytes(80_000_000)))
    with pytest.raises(SealError, match=r"layer_limit"):
        sealed(tmp_path, layer, packed=pack(layer), settings=SealSettings(layer_limit=2**20))


def test_bombs_of_holes(tmp_path: Path) -> None:
    """A sparse file counts with its holes: they would be compressed one by one."""
    layer = tar(maker.sparse_1("s", 2**50, [(0, b"x")]))
    with pytest.raises(SealError, match=r"layer_limit"):
        sealed(tmp_path, layer)


def test_too_many_entries(tmp_path: Path) -> None:
    layer = tar(*(file(str(number), b"") for number in range(11)))
    assert sealed(tmp_path, layer, settings=SealSettings(entry_limit=11))[0].entries == 11
    (tmp_path / "output").unlink()
    with pytest.raises(SealError, match="entry_limit"):
        sealed(tmp_path, layer, settings=SealSettings(entry_limit=10))


def test_a_refusal_names_layer_and_entry(tmp_path: Path) -> None:
    layer = tar(file("good"), hard_link("bad", "nothing"))
    with pytest.raises(SealError, match=f"layer {maker.digest(layer)}: entry 'bad': its hard-link"):
        sealed(tmp_path, layer)


def test_a_layer_below_that_is_damaged(tmp_path: Path) -> None:
    below, blob = tmp_path / "below.erofs", tmp_path / "blob"
    below.write_bytes(bytes(100_000))
    blob.write_bytes(LAYER)
    output = tmp_path / "output"
    with pytest.raises(IntegrityError, match=r"below\.erofs is damaged"):
        seal.seal(opener(blob), maker.digest(LAYER), [below], output, SETTINGS)
    assert not output.exists()


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole need is known before anything is written."""
    monkeypatch.setattr(erofstool, "ROOM", 2**62)
    with pytest.raises(SpaceError, match="are free"):
        sealed(tmp_path)


def test_a_blob_that_changes_between_its_readings(tmp_path: Path) -> None:
    blobs = [tmp_path / "first", tmp_path / "second"]
    blobs[0].write_bytes(REWRITTEN)
    blobs[1].write_bytes(REWRITTEN.replace(b"data", b"fake"))
    again = iter(blobs)
    output = tmp_path / "output"
    with pytest.raises(IntegrityError, match="changed while it was sealed"):
        seal.seal(lambda: next(again).open("rb"), maker.digest(REWRITTEN), [], output, SETTINGS)
    assert not output.exists()


def test_a_blob_that_gets_shorter_between_its_readings(tmp_path: Path) -> None:
    blobs = [tmp_path / "first", tmp_path / "second"]
    blobs[0].write_bytes(REWRITTEN)
    blobs[1].write_bytes(REWRITTEN[:5000])
    again = iter(blobs)
    output = tmp_path / "output"
    with pytest.raises(IntegrityError, match="changed while it was sealed"):
        seal.seal(lambda: next(again).open("rb"), maker.digest(REWRITTEN), [], output, SETTINGS)
    assert not output.exists()
