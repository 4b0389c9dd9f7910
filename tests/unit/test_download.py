"""Downloads from servers: resumed, verified, bounded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from downloadparts import BLOB, DESCRIPTOR, HEX, QUICK, check, download, good, layout
from servers import Asked, HttpServer, RawServer, Reply, Wire, ranged

from composeapps import oci
from composeapps.answers import Tls
from composeapps.bounds import Bounds
from composeapps.directory import DirectoryLayout
from composeapps.download import Watch
from composeapps.errors import (
    IntegrityError,
    NotFoundError,
    SourceError,
    TransientError,
)
from composeapps.layout import WebLayout
from composeapps.transport import Transport


@pytest.fixture
def ingest(tmp_path: Path) -> Path:
    path = tmp_path / "ingest"
    path.mkdir()
    return path


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
