"""Sealing: mkfs.erofs that is missing, old or fails; memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path

import layers as maker
import odd
import pytest
from sealparts import LAYER, sealed

from composeapps import blobstream, process, seal
from composeapps.errors import ConfigError, SpaceError

pytestmark = pytest.mark.usefixtures("newer_mkfs")


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
        ("cat >/dev/null; echo '<E> erofs_io: No space left on device' >&2", SpaceError),
        ("cat >/dev/null; echo '<E> erofs: what else there may be' >&2", process.ProcessError),
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
