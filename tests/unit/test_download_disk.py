"""Downloads from directories and to a disk: room, pace, interruptions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from downloadparts import BLOB, DESCRIPTOR, HEX, QUICK, REFERENCE, check, download, good, layout
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import Asked, HttpServer, Reply, ranged

from composeapps import oci
from composeapps.bounds import Bounds, StoppedError
from composeapps.directory import DirectoryLayout
from composeapps.download import Watch, download_blob
from composeapps.errors import (
    IntegrityError,
    NotFoundError,
    SourceError,
    SpaceError,
    StateError,
)
from composeapps.pacing import Pace, RateLimiter, download_all


@pytest.fixture
def ingest(tmp_path: Path) -> Path:
    path = tmp_path / "ingest"
    path.mkdir()
    return path


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    blobs = tmp_path / "stick" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / HEX).write_bytes(BLOB)
    return tmp_path / "stick"


def test_a_directory_is_a_place_too(ingest: Path, stick: Path) -> None:
    (ingest / f"{HEX}.part").write_bytes(BLOB[:1000])
    check(ingest, download(ingest, DirectoryLayout(stick)))


def test_a_damaged_directory(ingest: Path, stick: Path) -> None:
    blob = stick / "blobs" / "sha256" / HEX
    for data in (BLOB[:-1], BLOB + b"x", BLOB[:-1] + b"x"):
        blob.write_bytes(data)
        with pytest.raises(IntegrityError):
            download(ingest, DirectoryLayout(stick))
    with HttpServer(good) as server:
        check(ingest, download(ingest, DirectoryLayout(stick), layout(server)))


def test_odd_files_in_a_directory(ingest: Path, stick: Path) -> None:
    blob = stick / "blobs" / "sha256" / HEX
    blob.unlink()
    makers: list[Callable[[], object]] = [
        lambda: os.mkfifo(blob),
        lambda: blob.symlink_to("/dev/zero"),
        blob.mkdir,
        lambda: blob.symlink_to(blob),
    ]
    for make in makers:
        make()
        with pytest.raises(SourceError, match="cannot be read"):
            download(ingest, DirectoryLayout(stick))
        blob.rmdir() if blob.is_dir() else blob.unlink()
    (stick / "elsewhere").write_bytes(BLOB)
    blob.symlink_to(stick / "elsewhere")
    check(ingest, download(ingest, DirectoryLayout(stick)))


def test_the_space_check_is_asked_before_and_during(ingest: Path, stick: Path) -> None:
    asked: list[int] = []
    blob = os.urandom(20 * 1024 * 1024)
    descriptor = oci.Descriptor("x", oci.digest_of(blob), len(blob))
    (stick / "blobs" / "sha256" / oci.hex_of(descriptor.digest)).write_bytes(blob)
    download(ingest, DirectoryLayout(stick), watch=Watch(space=asked.append), descriptor=descriptor)
    assert asked[0] == len(blob)
    assert len(asked) == 3
    assert asked == sorted(asked, reverse=True)


def test_no_space_ends_it_before_the_server_is_asked(ingest: Path) -> None:
    def full(need: int) -> None:
        raise SpaceError(f"{need} bytes do not fit")

    with HttpServer(good) as server:
        with pytest.raises(SpaceError, match="3000000"):
            download(ingest, layout(server), watch=Watch(space=full))
        assert server.requests == []
    assert os.listdir(ingest) == []


LIMITED = """
import resource, sys, pathlib
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
sys.path.insert(0, sys.argv[3])
import test_download
from composeapps.errors import SpaceError
ingest, stick = (pathlib.Path(text) for text in sys.argv[1:3])
try:
    test_download.download(ingest, test_download.DirectoryLayout(stick))
except SpaceError as error:
    print("SpaceError", error)
"""


def test_a_full_file_system_is_a_space_error(ingest: Path, stick: Path) -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(ingest), str(stick), str(here)],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), *sys.path])},
        timeout=60,
    )
    assert done.stdout.startswith(b"SpaceError")
    assert os.stat(ingest / f"{HEX}.part").st_size == 1_000_000


def test_a_directory_that_cannot_be_written(tmp_path: Path, stick: Path) -> None:
    with pytest.raises(StateError, match="cannot be read or written"):
        download(tmp_path / "none", DirectoryLayout(stick))
    (tmp_path / "link").mkdir()
    other = tmp_path / "other"
    other.write_text("somebody else's")
    (tmp_path / "link" / f"{HEX}.part").symlink_to(other)
    with pytest.raises(StateError):
        download(tmp_path / "link", DirectoryLayout(stick))
    assert other.read_text() == "somebody else's"


def test_the_rate_cap_holds_over_parallel_downloads(tmp_path: Path, stick: Path) -> None:
    limiter = RateLimiter(1_500_000)
    place = DirectoryLayout(stick)

    def job(name: str) -> Callable[[threading.Event], Path]:
        ingest = tmp_path / name
        ingest.mkdir()
        return lambda stop: download_blob(
            [place], REFERENCE, DESCRIPTOR, ingest,
            pace=Pace(1, QUICK, stop), limiter=limiter, watch=Watch(),
        )  # fmt: skip

    begun = time.monotonic()
    download_all([job("one"), job("two")], 2)
    seconds = time.monotonic() - begun
    assert 2.9 < seconds < 4.5  # 6 MB at 1.5 MB/s, of which the first 1.5 MB come at once


def test_a_cap_below_the_minimum_rate_is_not_blamed_on_the_server(ingest: Path) -> None:
    blob = b"x" * 20_000
    descriptor = oci.Descriptor("x", oci.digest_of(blob), len(blob))
    bounds = Bounds(window=0.3, minimum_rate=1_000_000, backoff=0.01)
    with HttpServer(lambda asked: ranged(asked, blob)) as server:
        place = layout(server, bounds)
        check(ingest, download(ingest, place, rate=10_000, descriptor=descriptor), blob)
        assert len(server.requests) == 1


def test_backoff_is_random_bounded_and_heeds_the_server() -> None:
    pace = Pace(5, Bounds())
    for failures in (1, 3, 10, 10_000):
        most = min(60.0, 0.5 * 2.0 ** min(failures, 30))
        delays = [pace.delay(failures, None) for _ in range(50)]
        assert max(delays) <= most
        assert min(delays) < max(delays)
    assert pace.delay(1, 30.0) >= 30
    assert pace.delay(1, 9999.0) <= 60


def test_the_first_final_error_stops_the_others(tmp_path: Path) -> None:
    def slow(asked: Asked) -> Reply:
        if asked.target.endswith(HEX):
            return Reply(200, BLOB, pause=0.5)
        time.sleep(0.3)
        return Reply(404)

    lost = oci.Descriptor("x", oci.digest_of(b"lost"), 4)
    with HttpServer(slow) as server:
        place = layout(server)

        def job(descriptor: oci.Descriptor) -> Callable[[threading.Event], Path]:
            return lambda stop: download(tmp_path, place, stop=stop, descriptor=descriptor)

        begun = time.monotonic()
        with pytest.raises(NotFoundError):
            download_all([job(DESCRIPTOR), job(lost), job(DESCRIPTOR)], 2)
        assert time.monotonic() - begun < 3
    assert 0 < os.stat(tmp_path / f"{HEX}.part").st_size < len(BLOB)


def test_download_all_keeps_the_order_and_ends_on_defects() -> None:
    def late(number: int, _: threading.Event) -> int:
        time.sleep(0.02 * (3 - number))
        return number

    assert download_all([partial(late, number) for number in range(3)], 3) == [0, 1, 2]
    assert download_all([], 3) == []

    def defect(stop: threading.Event) -> int:
        raise ZeroDivisionError

    def waiting(stop: threading.Event) -> int:
        assert stop.wait(10)
        raise StoppedError("stopped")

    with pytest.raises(ZeroDivisionError):
        download_all([waiting, defect], 2)


RUN = """
import sys, pathlib
sys.path.insert(0, sys.argv[3])
import test_download
from types import SimpleNamespace
server = SimpleNamespace(url=sys.argv[2])
test_download.download(pathlib.Path(sys.argv[1]), test_download.layout(server))
"""


@pytest.fixture
def runner(ingest: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    here = Path(__file__).parent

    def run(url: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(ingest), url, str(here)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), *sys.path])},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_kill_9_and_resume(ingest: Path, runner: Callable[[str], subprocess.Popen[bytes]]) -> None:
    part = ingest / f"{HEX}.part"

    def slow(asked: Asked) -> Reply:
        reply = ranged(asked, BLOB)
        reply.pause = 0.0 if len(server.requests) == 3 else 0.03
        return reply

    with HttpServer(slow) as server:
        sizes = []
        for least in (200_000, 900_000):
            process = runner(server.url)
            while not part.exists() or part.stat().st_size < least:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            sizes.append(part.stat().st_size)
            assert not (ingest / HEX).exists()
        assert runner(server.url).wait(20) == 0
        check(ingest, ingest / HEX)
        ranges = [asked.headers.get("range") for asked in server.requests]
        assert ranges == [None, *(f"bytes={size}-{len(BLOB) - 1}" for size in sizes)]


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(["cut", "plain", "lie", "503"]), st.integers(0, 5000)), max_size=8
    )
)
def test_any_row_of_interruptions_ends_right(
    tmp_path_factory: pytest.TempPathFactory, row: list[tuple[str, int]]
) -> None:
    """Whatever servers cut, forget ranges or lie: the file is right, or not there at all."""
    blob = BLOB[:5000]
    descriptor = oci.Descriptor("x", oci.digest_of(blob), len(blob))
    ingest = tmp_path_factory.mktemp("ingest")
    left = list(row)

    def answer(asked: Asked) -> Reply:
        if not left:
            return ranged(asked, blob)
        kind, cut = left.pop(0)
        if kind == "503":
            return Reply(503)
        reply = Reply(200, blob) if kind == "plain" else ranged(asked, blob)
        if kind == "lie":
            reply.body = bytes(len(reply.body))
        reply.cut = cut
        return reply

    bounds = Bounds(backoff=0.001)
    with HttpServer(answer) as server:
        for _ in range(12):
            place = layout(server, bounds)
            try:
                path = download(ingest, place, attempts=2, bounds=bounds, descriptor=descriptor)
            except (SourceError, IntegrityError):
                assert not (ingest / oci.hex_of(descriptor.digest)).exists()
            else:
                break
    check(ingest, path, blob)
