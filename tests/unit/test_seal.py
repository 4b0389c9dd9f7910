"""Sealing as a whole: the same bytes every time, clear answers, and nothing left behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import layers as maker
import odd
import pytest
import zstandard
from layers import directory, file, hard_link, symlink, tar
from mkfs import directory_with_mkfs
from trees import opener

from composeapps import blobstream, erofstool, layertree, process, seal
from composeapps.config import SealSettings
from composeapps.errors import ConfigError, IntegrityError, SealError, SpaceError

LAYER = tar(
    directory("d"), file("d/f", b"data" * 10_000), hard_link("d/g", "d/f"), symlink("l", "d")
)
#: One that has to be read twice: its hard link changes a file that was read before.
REWRITTEN = tar(file("f", b"data" * 10_000), hard_link("g", "f", mode=0o600))
SETTINGS = SealSettings()


@pytest.fixture(autouse=True, scope="module")
def newer_mkfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Put the tree's mkfs.erofs first in PATH."""
    with pytest.MonkeyPatch.context() as patch:
        place = directory_with_mkfs(tmp_path_factory.mktemp("mkfs"))
        patch.setenv("PATH", f"{place}:{os.environ['PATH']}")
        seal.check_tool.cache_clear()
        yield place
    seal.check_tool.cache_clear()


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


def _tool(place: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put another mkfs.erofs first in PATH."""
    other = place / "bin"
    other.mkdir()
    (other / "mkfs.erofs").write_text(f"#!/bin/sh\n{script}\n")
    (other / "mkfs.erofs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{other}:/usr/bin:/bin")
    seal.check_tool.cache_clear()


def test_the_tool_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    seal.check_tool.cache_clear()
    with pytest.raises(ConfigError, match=r"not installed: install erofs-utils 1\.8\.5 or newer"):
        seal.check_tool()
    seal.check_tool.cache_clear()


@pytest.mark.parametrize(
    "script", ["echo mkfs.erofs 1.7.1", "echo 1.8.4", "echo usage >&2; exit 1", "echo nothing"]
)
def test_the_tool_is_too_old(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _tool(tmp_path, script, monkeypatch)
    with pytest.raises(ConfigError, match=r"too old.*install erofs-utils 1\.8\.5 or newer"):
        seal.check_tool()
    seal.check_tool.cache_clear()


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("cat >/dev/null; echo 'it broke' >&2; exit 3", process.ProcessError),
        ("echo 'it broke' >&2; exit 3", process.ProcessError),
        ("kill -9 $$", process.ProcessError),
        ("cat >/dev/null; echo 'write: No space left on device' >&2; exit 1", SpaceError),
    ],
)
def test_the_tool_fails(
    script: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its own words are told, and what it began to write is gone."""
    version = '[ "$1" = -V ] && { echo mkfs.erofs 1.9; exit; }; for last; do :; done; : >"$last"; '
    _tool(tmp_path, version + script, monkeypatch)
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(error):
        sealed(place, odd.IMAGES["contents"][0])
    seal.check_tool.cache_clear()


def test_the_tool_dies_with_us(tmp_path: Path) -> None:
    """Killed at any moment, sealing leaves no process behind that would run for ever."""
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from composeapps import seal
        from composeapps.config import SealSettings
        blob = Path(sys.argv[1])
        class Slow:
            def __init__(self):
                self.file = blob.open("rb")
            def __enter__(self):
                return self
            def __exit__(self, *_):
                self.file.close()
            def read(self, size):
                if self.file.tell() > 3000:
                    print("now", flush=True)
                    time.sleep(600)
                return self.file.read(min(size, 2048))
        def open_blob():
            return Slow()
        seal.seal(open_blob, sys.argv[2], [], Path(sys.argv[3]), SealSettings())
        """
    )
    blob, output = tmp_path / "blob", tmp_path / "output"
    blob.write_bytes(LAYER)
    arguments = [str(blob), maker.digest(LAYER), str(output)]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"now\n"
        assert _running(output)
        child.send_signal(signal.SIGKILL)
    for _ in range(100):
        if not _running(output):
            return
        time.sleep(0.05)
    pytest.fail("mkfs.erofs is still there")


def _running(output: Path) -> list[str]:
    """Return the processes that have a path among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(output) in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_memory_stays_below_its_bound() -> None:
    """A layer with ever more entries is refused while the process is still below 200 MB."""
    program = textwrap.dedent(
        """
        import re
        import layers as maker
        from composeapps.config import SealSettings
        from composeapps.errors import SealError
        from composeapps import seal
        block = maker.file("0" * 8, b"", mtime=1_000_000_000)
        class Endless:
            number = 0
            def __enter__(self):
                return self
            def __exit__(self, *_):
                pass
            def read(self, size):
                self.number += 1
                blocks = []
                for name in range(self.number * 400, self.number * 400 + 400):
                    digits, seconds = b"%08d" % name, b"%011o" % (10**9 + name)
                    total = int(block[148:154], 8) + sum(digits) - 8 * 0x30
                    total += sum(seconds) - sum(block[136:147])
                    head = digits + block[8:136] + seconds + block[147:148]
                    blocks.append(head + b"%06o\\0 " % total + block[156:])
                return b"".join(blocks)
        try:
            seal.scan(Endless, "", [], SealSettings(layer_limit=2**29))
        except SealError as error:
            print(str(error))
        # Not getrusage: it starts with what the parent process had at its largest.
        print(1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]))
        """
    )
    tests = Path(__file__).resolve().parent.parent
    printed = subprocess.check_output(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(tests)}, text=True
    )
    reason, peak = printed.splitlines()
    # The refusal comes at the bound on memory; then the rest is read, up to the other bound.
    assert "layer_limit" in reason
    assert 120_000_000 < int(peak) < 200_000_000


def test_large_and_small_pieces() -> None:
    """Exact reads and skips, whatever pieces the stream arrives in."""
    data = bytes(range(256)) * 40
    for size in (1, 7, 512, 100_000):
        stream = blobstream.ByteStream(
            iter([data[at : at + size] for at in range(0, len(data), size)])
        )
        assert stream.read(5) == data[:5]
        assert stream.skip(1000) == 1000
        assert stream.position == 1005
        assert stream.read(3000) == data[1005:4005]
        assert stream.skip(10**9) == len(data) - 4005
        assert stream.read(1) == b""
        assert stream.finish() == maker.digest(data)


def test_gzip_gives_no_more_at_once_than_it_should() -> None:
    """One piece of a bomb does not become one piece of memory."""
    packed = zlib.compress(bytes(50_000_000), wbits=31)

    class Once:
        def __init__(self) -> None:
            self.left = packed

        def read(self, size: int) -> bytes:
            data, self.left = self.left[:size], self.left[size:]
            return data

    sizes = [len(chunk) for chunk in blobstream.Blob(Once()).chunks()]  # type: ignore[arg-type]
    assert sum(sizes) == 50_000_000
    assert max(sizes) <= blobstream.CHUNK
