"""The outbox: every event is delivered at least once, each under one id, and none is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from composeapps import config, report
from composeapps.device import Device
from composeapps.errors import ComposeAppsError, ConfigError, SourceError, SpaceError


class Server:
    """Stands where the network begins: takes what is posted, or fails."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.fails: ComposeAppsError | None = None

    def post(self, url: str, body: bytes) -> None:
        assert url == "https://report.test/"
        value = json.loads(body)
        assert value["device"] == "test"
        self.got += value["events"]
        if self.fails is not None:  # a server may have taken it although no answer came
            raise self.fails

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.got]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def device(tmp_path: Path, server: Server) -> Device:
    settings = {
        "paths": {"data": str(tmp_path / "data"), "run": str(tmp_path / "run")},
        "device": {"id": "test"},
        "report": {"url": "https://report.test/"},
    }
    device = Device(config.parse(settings, "test"))
    device.__dict__["source"] = server
    return device


def test_what_is_delivered_is_what_happened_and_comes_once(device: Device, server: Server) -> None:
    events = [device.state.add_event("failed", {"version": number}) for number in (1, 2)]
    assert report.report(device) == 2
    wanted = [{"id": e.id, "time": e.time, "kind": e.kind, "body": dict(e.body)} for e in events]
    assert server.got == wanted
    assert report.report(device) == 0
    assert len(server.got) == 2


def test_many_events_go_in_bounded_deliveries(
    device: Device, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "BATCH", 3)
    ids = [device.state.add_event("x", {}).id for _ in range(7)]
    assert report.report(device) == 7
    assert server.ids == ids


def test_what_was_perhaps_not_taken_is_delivered_again_under_the_same_id(
    device: Device, server: Server
) -> None:
    event = device.state.add_event("committed", {"version": 1})
    server.fails = SourceError("no answer")
    with pytest.raises(SourceError):
        report.report(device)
    server.fails = None
    assert report.report(device) == 1
    assert server.ids == [event.id, event.id]


@pytest.mark.parametrize("error", [SourceError("x"), ConfigError("x"), SpaceError("x")])
def test_no_error_of_reporting_changes_how_a_verb_ends(
    device: Device, server: Server, error: ComposeAppsError
) -> None:
    """No network, a client certificate that is missing, a disk too full to note what was sent."""
    device.state.add_event("committed", {})
    server.fails = error
    report.try_report(device)
    assert len(device.state.events(unsent=True)) == 1


def test_without_a_server_nobody_is_told(device: Device, server: Server, tmp_path: Path) -> None:
    alone = Device(config.parse({"paths": {"data": str(tmp_path / "data")}}, "test"))
    alone.__dict__["source"] = server
    alone.state.add_event("committed", {})
    assert report.report(alone) == 0
    assert server.got == []
