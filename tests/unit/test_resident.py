"""``composeapps run`` as a real process; the verbs that it starts are a script that notes them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakeengine import HEADER, FakeEngine, event

#: The real command line with waits made short; only the interpreter of its children is replaced.
PROGRAM = """
import os, sys
from composeapps import supervise
supervise.SCRUB_FIRST = float(os.environ.get("SCRUB_FIRST", "300"))
supervise.DEBOUNCE, supervise.ENGINE_GRACE, supervise.ENGINE_RETRY = 0.2, 0.5, 0.2
supervise.UNSEEN = 1.0
supervise.Backoff.__init__.__defaults__ = (0.3, 2.0, 0.0)
sys.executable = sys.argv[1]
from composeapps import cli
sys.exit(cli.main(sys.argv[2:]))
"""
#: A stand-in for the verbs: notes each, and does what the file of the verb's name says.
CHILD = """#!/bin/sh
cd {directory}
for word; do case $word in -*) ;; *) verb=$word ;; esac; done
echo "$*" >> arguments
env > environment
echo "begin $verb" >> log
if [ -f "$verb" ]; then . "./$verb"; fi
echo "end $verb" >> log
"""
SETTINGS = """
[paths]
data = "{directory}"
[engine]
docker = "unix://{directory}/docker.sock"
[update]
interval = 3600
jitter = 0
"""
#: Bytes; what the issue allows the idle resident part.
PSS_LIMIT = 16 * 1024 * 1024


class Resident:
    """One running ``composeapps run`` and what its children noted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        child = directory / "child"
        child.write_text(CHILD.format(directory=directory))
        child.chmod(0o755)
        self.settings = directory / "settings.toml"
        self.settings.write_text(SETTINGS.format(directory=directory))
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(directory / "notify"))
        self.notify.settimeout(10)
        self.process: subprocess.Popen[bytes] | None = None

    def does(self, verb: str, script: str) -> None:
        """Say what a verb does; ``log`` is where things are noted."""
        (self.directory / verb).write_text(script)

    def start(self, **environment: str) -> None:
        argv = [sys.executable, "-c", PROGRAM, str(self.directory / "child")]
        self.process = subprocess.Popen(
            [*argv, "--config", str(self.settings), "run"],
            env={**os.environ, "NOTIFY_SOCKET": str(self.directory / "notify"), **environment},
            stderr=(self.directory / "stderr").open("wb"),
        )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log(self) -> list[str]:
        file = self.directory / "log"
        return file.read_text().splitlines() if file.exists() else []

    def wait(self, wanted: Callable[[list[str]], bool], seconds: float = 10) -> list[str]:
        """Wait until the log is as it is wanted, and return it."""
        deadline = time.monotonic() + seconds
        while not wanted(self.log()):
            assert self.process is not None
            assert self.process.poll() is None, self.errors()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        return self.log()

    def settle(self) -> None:
        """Wait until what is done at first is done."""
        self.wait(lambda log: "end update" in log)
        time.sleep(0.1)

    def errors(self) -> str:
        return (self.directory / "stderr").read_text()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self, seconds: float = 5) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def clean(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.notify.close()


@pytest.fixture
def resident(tmp_path: Path) -> Iterator[Resident]:
    one = Resident(tmp_path)
    yield one
    one.clean()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    fake = FakeEngine(tmp_path / "docker.sock", HEADER)
    yield fake
    fake.end()


def count(entry: str, number: int) -> Callable[[list[str]], bool]:
    return lambda log: log.count(entry) >= number


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


def test_trouble_of_a_container_is_mended(resident: Resident, engine: FakeEngine) -> None:
    resident.start()
    resident.settle()
    engine.send(event("health_status: healthy") + event("die", project=None) + b"garbage\xff\n")
    time.sleep(0.5)
    assert resident.log().count("begin start") == 1
    engine.send(event("die"))
    resident.wait(count("end start", 2))
    time.sleep(0.5)
    assert resident.log().count("begin start") == 2


def test_what_its_own_children_stop_is_no_trouble(resident: Resident, engine: FakeEngine) -> None:
    resident.start()
    resident.settle()
    resident.does("update", "sleep 2")
    resident.signal(signal.SIGHUP)
    resident.wait(count("begin update", 2))
    engine.send(event("die") * 3)
    resident.wait(count("end update", 2))
    time.sleep(0.6)
    assert resident.log().count("begin start") == 1


def test_a_container_that_ends_as_a_child_does_is_looked_at(
    resident: Resident, engine: FakeEngine
) -> None:
    """The child had looked at all of them before."""
    resident.start()
    resident.settle()
    resident.does("update", "while [ ! -e go ]; do sleep 0.02; done; sleep 0.1")
    resident.signal(signal.SIGHUP)
    resident.wait(count("begin update", 2))
    engine.send(event("die"))
    (resident.directory / "go").touch()
    resident.wait(count("end start", 2))


def test_mending_that_fails_is_tried_again_and_updates_go_on(
    resident: Resident, engine: FakeEngine
) -> None:
    resident.does("start", "[ $(grep -c begin log) -gt 3 ] || exit 12")
    resident.start()
    log = resident.wait(count("end start", 1))
    assert log.count("begin start") >= 2
    resident.wait(count("end update", 1))


def test_an_engine_that_went_away_and_came_back_is_looked_at(
    resident: Resident, engine: FakeEngine
) -> None:
    """Nobody knows what was missed meanwhile."""
    resident.start()
    resident.settle()
    engine.drop()
    resident.wait(count("end start", 2))
    time.sleep(0.5)
    assert resident.log().count("begin start") == 2, "and once is enough"


@pytest.mark.parametrize("answer", ["none", "silence", "refusal"])
def test_an_engine_that_does_not_answer_is_mended(
    resident: Resident, tmp_path: Path, answer: str
) -> None:
    says = {"silence": b"", "refusal": b"HTTP/1.0 500 Internal Server Error\r\n\r\n"}
    fake = FakeEngine(tmp_path / "docker.sock", says[answer]) if answer in says else None
    resident.start()
    resident.settle()
    resident.wait(count("end start", 2))
    if fake is not None:
        fake.end()


def test_a_child_that_is_killed_is_not_the_end(resident: Resident, engine: FakeEngine) -> None:
    resident.does("update", "rm update; kill -9 $$")
    resident.start()
    resident.wait(count("end update", 1))
    assert resident.log().count("begin update") == 2


def test_an_engine_that_is_not_local_is_refused(resident: Resident) -> None:
    resident.settings.write_text('[engine]\ndocker = "tcp://127.0.0.1:1"\n')
    resident.start()
    assert resident.ended() == 3
    assert resident.errors().startswith("composeapps: engine.docker has to be a unix:// address")


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
