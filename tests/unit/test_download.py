"""Downloads into the ingest directory: verified, resumed, never poisoned, bounded, killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import Asked, HttpServer, RawServer, Reply, Wire, ranged

from composeapps import oci
from composeapps.answers import Tls
from composeapps.bounds import Bounds, StoppedError
from composeapps.directory import DirectoryLayout
from composeapps.download import Watch, download_blob
from composeapps.errors import (
    IntegrityError,
    NotFoundError,
    SourceError,
    SpaceError,
    StateError,
    TransientError,
)
from composeapps.layout import WebLayout
from composeapps.pacing import Pace, RateLimiter, download_all
from composeapps.places import Place
from composeapps.transport import Transport

REFERENCE = oci.Reference("registry.test", "a/b")
BLOB = random.Random(1).randbytes(3_000_000)
DESCRIPTOR = oci.Descriptor("application/octet-stream", oci.digest_of(BLOB), len(BLOB))
HEX = oci.hex_of(DESCRIPTOR.digest)
QUICK = Bounds(backoff=0.01, backoff_cap=0.02, retry_after=0.05, window=5.0)


@pytest.fixture
def ingest(tmp_path: Path) -> Path:
    path = tmp_path / "ingest"
    path.mkdir()
    return path


def layout(server: RawServer, bounds: Bounds = QUICK) -> WebLayout:
    return WebLayout(server.url, Tls(), Transport(2, bounds=bounds, environment={}))


def download(
    ingest: Path,
    *places: Place,
    attempts: int = 3,
    rate: int = 0,
    watch: Watch | None = None,
    bounds: Bounds = QUICK,
    stop: threading.Event | None = None,
    descriptor: oci.Descriptor = DESCRIPTOR,
    transient: bool = False,
) -> Path:
    return download_blob(
        places,
        REFERENCE,
        descriptor,
        ingest,
        pace=Pace(attempts, bounds, stop or threading.Event()),
        limiter=RateLimiter(rate),
        watch=watch or Watch(),
        transient=transient,
    )


def check(ingest: Path, path: Path, blob: bytes = BLOB) -> None:
    """The finished file is right, and nothing else is there."""
    assert path.read_bytes() == blob
    assert os.listdir(ingest) == [path.name]


def good(asked: Asked) -> Reply:
    return ranged(asked, BLOB)


class Cutting:
    """Answers ranges, and resets the connection after so many bytes of each answer."""

    def __init__(self, *cuts: int, ranges: bool = True) -> None:
        self.cuts = list(cuts)
        self.ranges = ranges

    def __call__(self, asked: Asked) -> Reply:
        reply = ranged(asked, BLOB) if self.ranges else Reply(200, BLOB)
        reply.cut = self.cuts.pop(0) if self.cuts else None
        return reply


def test_a_download(ingest: Path) -> None:
    seen: list[int] = []
    with HttpServer(good) as server:
        path = download(ingest, layout(server), watch=Watch(progress=seen.append))
        check(ingest, path)
        assert path.name == HEX
        assert path.stat().st_mode & 0o777 == 0o600
        assert seen == sorted(seen)
        assert seen[-1] == len(BLOB)
        assert server.requests[0].target == f"/blobs/sha256/{HEX}"
        assert "range" not in server.requests[0].headers


def test_what_is_there_already_is_verified_and_used(ingest: Path) -> None:
    (ingest / HEX).write_bytes(BLOB)
    with HttpServer(good) as server:
        check(ingest, download(ingest, layout(server)))
        assert server.requests == []
        (ingest / HEX).write_bytes(BLOB[:-1] + b"!")
        check(ingest, download(ingest, layout(server)))
        assert len(server.requests) == 1


def test_a_transient_blob_is_verified_and_stays_a_part(
    ingest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HttpServer(good) as server:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: pytest.fail("nothing has to reach the medium"))
            path = download(ingest, layout(server), transient=True)
        check(ingest, path)
        assert path.name == f"{HEX}.part"
        path.write_bytes(bytes(len(BLOB)))  # what a power cut may leave of it
        check(ingest, download(ingest, layout(server), transient=True))
        with HttpServer(lambda asked: Reply(200, bytes(len(BLOB)))) as liar:
            path.write_bytes(b"")
            with pytest.raises(IntegrityError, match="do not have digest"):
                download(ingest, layout(liar), transient=True)
    assert os.listdir(ingest) == []


def test_an_empty_blob(ingest: Path) -> None:
    empty = oci.Descriptor("x", oci.digest_of(b""), 0)
    check(ingest, download(ingest, descriptor=empty), b"")
    wrong = oci.Descriptor("x", DESCRIPTOR.digest, 0)
    with HttpServer(good) as server, pytest.raises(IntegrityError):
        download(ingest, layout(server), descriptor=wrong)


def test_a_cut_connection_is_resumed_by_range(ingest: Path) -> None:
    with HttpServer(Cutting(1_000_000, 500_000)) as server:
        check(ingest, download(ingest, layout(server)))
        starts = [a.headers.get("range", "bytes=0-").partition("-")[0] for a in server.requests]
        offsets = [int(start.removeprefix("bytes=")) for start in starts]
        assert len(offsets) == 3
        assert offsets == sorted(offsets)
        assert offsets[1] > 0
        assert offsets[2] > offsets[1]


def test_an_earlier_runs_part_is_hashed_and_completed(ingest: Path) -> None:
    (ingest / f"{HEX}.part").write_bytes(BLOB[:1_234_567])
    seen: list[int] = []
    with HttpServer(good) as server:
        check(ingest, download(ingest, layout(server), watch=Watch(progress=seen.append)))
        assert server.requests[0].headers["range"] == f"bytes=1234567-{len(BLOB) - 1}"
        assert seen[0] == 1_234_567


def test_a_complete_part_needs_no_network(ingest: Path) -> None:
    (ingest / f"{HEX}.part").write_bytes(BLOB)
    check(ingest, download(ingest))


@pytest.mark.parametrize("part", [b"x" * 1000, b"\0" * len(BLOB), BLOB + b"more", BLOB[1:] + b"x"])
def test_a_poisoned_part_does_not_poison_for_ever(ingest: Path, part: bytes) -> None:
    (ingest / f"{HEX}.part").write_bytes(part)
    with HttpServer(good) as server:
        check(ingest, download(ingest, layout(server)))
        assert "range" not in server.requests[-1].headers


def test_a_part_poisoned_by_another_place_is_thrown_away(ingest: Path) -> None:
    evil = Reply(200, b"x" * len(BLOB), cut=2_000_000)
    with HttpServer(lambda _: evil) as liar, HttpServer(good) as server:
        check(ingest, download(ingest, layout(liar), layout(server)))
        assert [a.headers.get("range") is None for a in server.requests] == [False, True]


def test_wrong_bytes_and_the_next_place(ingest: Path) -> None:
    with HttpServer(lambda _: Reply(200, b"x" * len(BLOB))) as liar, HttpServer(good) as server:
        check(ingest, download(ingest, layout(liar), layout(server)))
        assert len(liar.requests) == 1
        (ingest / HEX).unlink()
        with pytest.raises(IntegrityError, match="do not have digest"):
            download(ingest, layout(liar))
        assert os.listdir(ingest) == []


def test_a_server_without_ranges_starts_again(ingest: Path) -> None:
    seen: list[int] = []
    with HttpServer(Cutting(1_000_000, ranges=False)) as server:
        check(ingest, download(ingest, layout(server), watch=Watch(progress=seen.append)))
    assert 0 in seen
    assert seen[-1] == len(BLOB)


@pytest.mark.parametrize("header", ["bytes 0-2999999/3000000", "bytes 7-2999999/3000000", ""])
def test_a_wrong_range_is_refused_and_the_part_kept(ingest: Path, header: str) -> None:
    part = ingest / f"{HEX}.part"
    part.write_bytes(BLOB[:1000])
    reply = Reply(206, BLOB[1000:], {"Content-Range": header})
    with HttpServer(lambda _: reply) as server, pytest.raises(SourceError, match="another range"):
        download(ingest, layout(server))
    assert part.read_bytes() == BLOB[:1000]


@pytest.mark.parametrize("length", [len(BLOB) + 1, len(BLOB) - 1, 0])
def test_a_wrong_length_does_not_touch_the_part(ingest: Path, length: int) -> None:
    part = ingest / f"{HEX}.part"
    part.write_bytes(BLOB[:1000])
    with HttpServer(lambda _: Reply(200, b"x" * length)) as server:
        place = layout(server)
        with pytest.raises(IntegrityError, match="instead of"):
            download(ingest, place)
    assert part.read_bytes() == BLOB[:1000]


def test_an_endless_body_is_read_to_the_size_only(ingest: Path) -> None:
    def script(wire: Wire) -> None:
        wire.request()
        wire.send("HTTP/1.1 200 ok\r\n\r\n")
        while True:
            wire.send(b"x" * 65536)

    transport = Transport(2, bounds=QUICK, environment={})
    with RawServer(script) as server, pytest.raises(IntegrityError):
        download(ingest, WebLayout(server.url, Tls(), transport))
    assert transport.stats.received < len(BLOB) + 600_000
    assert os.listdir(ingest) == []


def test_a_body_that_ends_early_is_asked_for_again(ingest: Path) -> None:
    def script(wire: Wire) -> None:
        asked = wire.request()
        wire.send("HTTP/1.1 200 ok\r\n\r\n")
        wire.send(BLOB if len(server.requests) > 1 else BLOB[:1000])
        assert asked

    with RawServer(script) as server:
        check(ingest, download(ingest, layout(server)))
        assert len(server.requests) == 2


def test_tries_are_bounded(ingest: Path) -> None:
    with HttpServer(lambda _: Reply(503, b"", {"Retry-After": "999999"})) as server:
        with pytest.raises(TransientError, match="answers 503"):
            download(ingest, layout(server), attempts=4)
        assert len(server.requests) == 4
    assert os.listdir(ingest) == []


def test_tries_that_brought_a_lot_do_not_count(ingest: Path) -> None:
    bounds = Bounds(backoff=0.001, progress=50_000)
    with HttpServer(Cutting(*[200_000] * 15)) as server:
        check(ingest, download(ingest, layout(server), attempts=2, bounds=bounds))
        assert len(server.requests) > 5


def test_tries_that_brought_little_count(ingest: Path) -> None:
    with HttpServer(Cutting(*[1] * 15)) as server:
        with pytest.raises(TransientError):
            download(ingest, layout(server), attempts=4)
        assert len(server.requests) == 4


def test_the_error_says_what_each_place_said(ingest: Path, tmp_path: Path) -> None:
    missing = DirectoryLayout(tmp_path / "stick")
    with HttpServer(lambda _: Reply(404)) as none, HttpServer(lambda _: Reply(400)) as other:
        with pytest.raises(SourceError) as caught:
            download(ingest, missing, layout(none), layout(other))
        text = str(caught.value)
        for words in ("registry.test/a/b@sha256:", "stick", "answers 404", "answers 400"):
            assert words in text
        with pytest.raises(NotFoundError):
            download(ingest, missing, layout(none))
    with pytest.raises(SourceError, match="no source is set"):
        download(ingest)


def test_a_transient_failure_is_not_hidden_by_a_wrong_place(ingest: Path) -> None:
    with HttpServer(lambda _: Reply(200, b"x")) as liar, HttpServer(lambda _: Reply(500)) as down:
        with pytest.raises(TransientError, match=r"instead of.*answers 500"):
            download(ingest, layout(liar), layout(down))
        assert len(liar.requests) == 1


# A directory


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


# Space and disk


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


# Pace


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


# Interrupted


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
