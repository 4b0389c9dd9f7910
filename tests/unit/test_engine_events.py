"""The engine's events from a real socket, whatever comes over it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakeengine import HEADER, FakeEngine, event
from hypothesis import given
from hypothesis import strategies as st

from composeapps import supervise
from composeapps.engineevents import EngineEvents
from composeapps.errors import ConfigError


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    fake = FakeEngine(tmp_path / "docker.sock")
    yield fake
    fake.end()


@pytest.fixture
def events(engine: FakeEngine) -> Iterator[EngineEvents]:
    stream = EngineEvents(f"unix://{engine.path}")
    assert stream.connect() is not None
    yield stream
    stream.close()


def read(events: EngineEvents) -> tuple[bool, bool]:
    """Wait for something and take all of it; return (stands, trouble seen)."""
    assert events.socket is not None
    events.socket.settimeout(5)
    stands, trouble = events.read()
    events.socket.setblocking(False)
    while stands:
        before = events._buffer
        stands, more = events.read()
        trouble = trouble or more
        if events._buffer == before and not more:
            break
    return stands, trouble


def test_the_request_asks_for_containers_trouble_only(
    engine: FakeEngine, events: EngineEvents
) -> None:
    engine.send(HEADER)
    read(events)
    line = engine.requests[0].split(b"\r\n")[0].decode()
    assert line.startswith("GET /events?filters=%7B%22type%22")
    assert line.endswith(" HTTP/1.0")
    for word in ("die", "health_status", "destroy", "oom"):
        assert word in line


@pytest.mark.parametrize(
    ("data", "trouble"),
    [
        (event("die"), True),
        (event("oom"), True),
        (event("destroy"), True),
        (event("health_status: unhealthy"), True),
        (event("health_status: healthy"), False),
        (event("health_status"), False),
        (event("die", project=None), False),
        (b"{}\n", False),
        (b"[]\n", False),
        (b"null\n", False),
        (b'{"Actor": [1]}\n', False),
        (b'{"Actor": {"Attributes": 5}}\n', False),
        (b'{"Actor": {"Attributes": ["com.docker.compose.project"]}}\n', False),
        (b'{"Actor": {"Attributes": {"com.docker.compose.project": 5}}, "Action": []}\n', True),
        (b"\x00\xff\xfe garbage\n", False),
        (b"[" * 60_000 + b"\n", False),
        (b"1a4\r\n", False),
        (b"9" * 5000 + b"\n", False),
        (b"\n\n\n", False),
    ],
    ids=range(19),
)
def test_what_is_trouble_and_what_is_noise(
    engine: FakeEngine, events: EngineEvents, data: bytes, trouble: bool
) -> None:
    engine.send(HEADER + data)
    assert read(events) == (True, trouble)
    assert events.answers
    engine.send(event("die"))
    assert read(events) == (True, True), "the stream goes on after it"


@given(st.lists(st.integers(1, 200), max_size=20))
def test_events_in_any_pieces(cuts: list[int]) -> None:
    ours, theirs = socket.socketpair()
    events = EngineEvents("unix:///unused")
    events.socket = ours
    ours.setblocking(False)
    whole = HEADER + event("health_status: healthy") + event("die") + event("die", project=None)
    seen = 0
    while whole:
        size = cuts.pop() if cuts else len(whole)
        theirs.sendall(whole[:size])
        whole = whole[size:]
        stands, trouble = events.read()
        assert stands
        seen += trouble
    assert seen == 1
    assert events.answers
    assert events.read() == (True, False)
    theirs.close()
    assert events.read() == (False, False)
    ours.close()


@given(st.lists(st.binary(max_size=80), max_size=10))
def test_any_bytes_are_survived(pieces: list[bytes]) -> None:
    ours, theirs = socket.socketpair()
    events = EngineEvents("unix:///unused")
    events.socket = ours
    ours.setblocking(False)
    for piece in [*pieces, b"\n", event("die")]:
        if piece:
            theirs.sendall(piece)
            stands, trouble = events.read()
            assert stands
    assert trouble
    ours.close()
    theirs.close()


def test_a_line_without_end_does_not_fill_memory(engine: FakeEngine, events: EngineEvents) -> None:
    engine.send(HEADER)
    for _ in range(40):
        engine.send(b"x" * 50_000)
        read(events)
    assert len(events._buffer) <= 65536
    engine.send(b"\n" + event("die"))
    assert read(events) == (True, True)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.0 500 Oops\r\n\r\n{}\n", b"HTTP/1.1 400 Bad\r\n", b"\n"]
)
def test_an_engine_that_refuses_does_not_answer(
    engine: FakeEngine, events: EngineEvents, answer: bytes
) -> None:
    engine.send(answer)
    assert read(events) == (True, False)
    assert not events.answers


def test_the_end_of_the_stream_and_a_new_one(engine: FakeEngine, events: EngineEvents) -> None:
    engine.send(HEADER + event("die"))
    assert read(events) == (True, True)
    engine.drop()
    assert read(events) == (False, False)
    events.close()
    assert not events.answers
    assert events.connect() is not None
    assert not events.answers
    engine.send(HEADER)
    read(events)
    assert events.answers


def test_no_engine(tmp_path: Path) -> None:
    assert EngineEvents(f"unix://{tmp_path}/none").connect() is None
    (tmp_path / "file").write_text("")
    assert EngineEvents(f"unix://{tmp_path}/file").connect() is None
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead"))
    dead.close()
    assert EngineEvents(f"unix://{tmp_path}/dead").connect() is None
    assert EngineEvents(f"unix://{tmp_path}/" + "x" * 200).connect() is None


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:2375", "/run/docker.sock", ""])
def test_only_a_local_engine_is_watched(url: str) -> None:
    with pytest.raises(ConfigError, match=r"engine\.docker has to be a unix:// address"):
        EngineEvents(url)


def test_half_of_what_systemd_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert supervise.watchdog_interval() == supervise.TICK
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert supervise.watchdog_interval() == 15.0
