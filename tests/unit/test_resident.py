"""``composeapps run`` as a real process; the verbs that it starts are a script that notes them."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from fakeengine import HEADER, FakeEngine, event
from residentparts import Resident, count

#: Bytes; what the issue allows the idle resident part.
PSS_LIMIT = 16 * 1024 * 1024


def test_it_starts_then_updates_one_child_at_a_time(resident: Resident, engine: FakeEngine) -> None:
    resident.does("start", "sleep 0.2")
    resident.start(HTTPS_PROXY="http://proxy.test:1", WATCHDOG_USEC="60000000")
    log = resident.wait(count("end update", 1))
    assert log == ["begin start", "end start", "begin update", "end update"]
    lines = (resident.directory / "arguments").read_text().splitlines()
    assert lines[0] == f"-m composeapps.cli --config {resident.settings} start --unless-stopped"
    environment = (resident.directory / "environment").read_text()
    assert "HTTPS_PROXY=http://proxy.test:1" in environment.splitlines()
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC"):
        assert name not in environment, "only the resident part speaks for the service"


def test_systemd_is_told_that_it_is_ready_and_alive(resident: Resident, engine: FakeEngine) -> None:
    resident.start(WATCHDOG_USEC="300000")
    assert resident.notify.recv(100) == b"READY=1"
    resident.settle()
    begun = time.monotonic()
    for _ in range(8):
        assert resident.notify.recv(100) == b"WATCHDOG=1"
    took = time.monotonic() - begun
    resident.does("update", "sleep 1")
    resident.signal(signal.SIGHUP)
    resident.wait(count("begin update", 2))
    resident.notify.recv(100)
    assert resident.notify.recv(100) == b"WATCHDOG=1", "alive while a child works"
    assert took < 3


def test_an_abstract_notify_socket_and_one_that_is_gone(tmp_path: Path) -> None:
    resident = Resident(tmp_path)
    name = f"composeapps-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        abstract.bind(f"\0{name}")
        abstract.settimeout(10)
        resident.start(NOTIFY_SOCKET=f"@{name}")
        assert abstract.recv(100) == b"READY=1"
    resident.settle()
    resident.signal(signal.SIGTERM)
    assert resident.ended() == 0
    assert "systemd is not listening" in resident.errors()
    assert "Traceback" not in resident.errors()
    resident.clean()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_when_idle(
    resident: Resident, engine: FakeEngine, number: signal.Signals
) -> None:
    resident.start()
    resident.settle()
    begun = time.monotonic()
    resident.signal(number)
    assert resident.ended() == 0
    assert time.monotonic() - begun < 2
    assert resident.errors() == ""


def test_it_ends_its_child_and_waits_for_it(resident: Resident, engine: FakeEngine) -> None:
    resident.does("start", "trap 'echo term >> log; sleep 0.3; echo last >> log; exit 1' TERM\n"
                  "while :; do sleep 0.05; done")  # fmt: skip
    resident.start()
    resident.wait(count("begin start", 1))
    time.sleep(0.1)
    resident.signal(signal.SIGTERM)
    assert resident.ended() == 0
    assert resident.log() == ["begin start", "term", "last"], "and begins nothing more"


def test_layers_are_verified_beside_the_rest(resident: Resident, engine: FakeEngine) -> None:
    """Slowly, so nobody waits for it; what is damaged is looked for on the network."""
    resident.does("verify", "while [ ! -e go ]; do sleep 0.05; done; exit 6")
    resident.start(SCRUB_FIRST="0")
    resident.wait(count("begin verify", 1))
    resident.settle()
    arguments = (resident.directory / "arguments").read_text()
    assert f"--config {resident.settings} verify --scrub" in arguments
    engine.send(event("die"))
    resident.wait(count("end start", 2))
    (resident.directory / "go").touch()
    resident.wait(count("end update", 2))
    assert resident.log().count("begin verify") == 1


def test_verifying_ends_with_the_resident_part(resident: Resident, engine: FakeEngine) -> None:
    resident.does("verify", "trap 'echo term >> log; exit 130' TERM; while :; do sleep 0.05; done")
    resident.start(SCRUB_FIRST="0")
    resident.settle()
    resident.wait(count("begin verify", 1))
    time.sleep(0.1)
    resident.signal(signal.SIGTERM)
    assert resident.ended() == 0
    assert resident.log()[-1] == "term"


def test_an_orderly_end_is_written_down(resident: Resident, engine: FakeEngine) -> None:
    resident.start()
    resident.settle()
    marker = resident.directory / "stopped-in-order"
    assert not marker.exists()
    resident.signal(signal.SIGTERM)
    assert resident.ended() == 0
    assert marker.read_text() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_hangup_looks_for_a_release_now_or_after_the_one_under_way(
    resident: Resident, engine: FakeEngine
) -> None:
    resident.start()
    resident.settle()
    resident.signal(signal.SIGHUP)
    resident.wait(count("end update", 2))
    resident.does("update", "sleep 0.4")
    resident.signal(signal.SIGHUP)
    resident.wait(count("begin update", 3))
    resident.signal(signal.SIGHUP)
    resident.wait(count("end update", 4))
    time.sleep(0.3)
    assert resident.log().count("begin update") == 4
    assert resident.log().count("begin start") == 1


@pytest.mark.parametrize("there", [True, False], ids=["engine", "no engine"])
def test_idle_it_is_small_and_asleep(resident: Resident, tmp_path: Path, there: bool) -> None:
    fake = FakeEngine(tmp_path / "docker.sock", HEADER) if there else None
    resident.start()
    resident.settle()
    before = cpu_ticks(resident.pid)
    time.sleep(1)
    used = (cpu_ticks(resident.pid) - before) / os.sysconf("SC_CLK_TCK")
    assert used <= 0.05, "it wakes too often"
    size = pss(resident.pid)
    print(f"PSS of the idle resident part: {size / 1e6:.1f} MB")
    assert size <= PSS_LIMIT
    if fake is not None:
        fake.end()


def pss(pid: int) -> int:
    """Return the proportional set size of a process in bytes (proc(5), smaps_rollup)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel tells no Pss")


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
