"""The benchmarks' own parts: ratios and verdicts, gaps, events, TLS records, memory, one relay."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from certificates import Authority
from servers import StaticServer

from bench import figures, health, memory, parts, results, sides
from bench.figures import CLASSIC, CONTAINERD, SEALED, Aim, Figure
from bench.inside import poll
from bench.relay import Connection, Count

BENCH = Path(sides.__file__).parent


def figure(aim: Aim | None, **runs: list[float]) -> Figure:
    names = {"sealed": SEALED, "containerd": CONTAINERD, "classic": CLASSIC}
    return Figure("x", "s", {names[side]: values for side, values in runs.items()}, aim)


def test_the_median_counts_and_every_peer_has_to_be_beaten() -> None:
    one = figure(Aim(0.5), sealed=[1, 9, 2], containerd=[4, 4], classic=[3.9])
    assert (one.median(SEALED), one.ratio(CONTAINERD)) == (2, 0.5)
    assert one.spread(SEALED) == 4
    assert one.verdict() == "MISSED"  # 2 / 3.9
    one.runs[CLASSIC] = [4.0]
    assert one.verdict() == "met"
    assert figure(None, sealed=[1], containerd=[0.1]).verdict() == ""


def test_an_aim_that_was_not_measured_is_missed() -> None:
    assert figure(Aim(1), sealed=[1]).verdict() == "MISSED"
    assert figure(Aim(1), containerd=[1]).verdict() == "MISSED"
    assert figure(Aim(1), sealed=[0], containerd=[0]).verdict() == "MISSED"
    assert figure(Aim(1, ratio=False)).verdict() == "MISSED"
    assert figure(Aim(16, ratio=False), sealed=[15.9, 16, 16.1]).verdict() == "met"


def test_the_table_says_what_was_measured_and_what_was_not() -> None:
    whole = figure(Aim(0.5), sealed=[1000, 3000], containerd=[8000], classic=[5000])
    part = figure(Aim(16, ratio=False), sealed=[17.26])
    lines = figures.table([whole, part]).splitlines()
    assert lines[0].split() == [
        *("unit", "sealed", "containerd", "store", "ratio", "classic", "store", "ratio", "aim"),
    ]
    row = ["x", "s", "2,000", "±50%", "8,000", "0.25", "5,000", "0.40", "<=", "0.5x", "met"]
    assert lines[1].split() == row
    assert lines[2].split() == ["x", "s", "17.3", "-", "-", "-", "-", "<=", "16", "MISSED"]
    assert json.loads(json.dumps(whole.to_json()))["ratios"] == {CONTAINERD: 0.25, CLASSIC: 0.4}


def test_results_add_up() -> None:
    found = results.Results()
    for side in (SEALED, CONTAINERD):
        found.add("first.written", side, 10.0)
        found.add("update.written", side, 2.5)
        found.add("lost.seconds", side, 3.0, command=2.0)
    found.add("lost.together", CONTAINERD, 4.0)
    found.finish()
    by_name = {one.name: one for one in found.compared()}
    assert by_name["install and update: written"].runs == {SEALED: [12.5], CONTAINERD: [12.5]}
    assert by_name["  its peers start apps together"].ratio(CONTAINERD) == 0.75
    assert by_name["engine store lost: to healthy"].detail[SEALED] == {"command": 2.0}
    assert found.sealing() == []
    assert "first.written" in found
    assert "nonsense" not in found


@pytest.mark.parametrize(
    ("looks", "gaps"),
    [
        ("", []),
        ("...", []),
        ("xx..", []),  # not up yet: nobody's downtime
        ("..x..", [2.0]),
        (".xx.x.", [3.0, 2.0]),
        (".xx", []),  # never came back; the caller refuses that
    ],
)
def test_the_gap_is_from_the_last_good_answer_to_the_next(looks: str, gaps: list[float]) -> None:
    seen = [(float(at), at + 0.5, look == ".") for at, look in enumerate(looks, start=1)]
    assert poll.away(seen) == gaps


def test_a_service_is_asked_until_told_to_end(tmp_path: Path) -> None:
    with StaticServer({"/": b"here"}) as server:
        output = str(tmp_path / "looks")
        command = [sys.executable, str(BENCH / "inside/poll.py"), server.url, output]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            while len(server.requests) < 5:
                time.sleep(0.01)
            process.terminate()
    looks = json.loads((tmp_path / "looks").read_text())
    assert len(looks) >= 5
    assert all(good for _, _, good in looks)
    assert poll.look("http://127.0.0.1:1/")[2] is False


def event(service: str, action: str, when: float, code: str = "") -> bytes:
    project, _, name = service.partition("/")
    attributes = {"com.docker.compose.project": project, "com.docker.compose.service": name}
    actor = {"Attributes": attributes | ({"exitCode": code} if code else {})}
    return json.dumps({"Action": action, "Actor": actor, "timeNano": int(when * 1e9)}).encode()


def test_the_gate_opens_with_the_last_service() -> None:
    lines = [
        b"HTTP/1.0 200 OK",
        event("web/web", "health_status: healthy", 5),
        event("telemetry/prepare", "die", 11, "0"),
        event("web/web", "health_status: unhealthy", 12),
        event("web/web", "health_status: healthy", 13),
        event("web/web", "health_status: healthy", 19),
        b'{"Action": "cut o',
    ]
    wanted = {"web/web", "telemetry/prepare"}
    assert health.healthy_at(lines, wanted, 10) == 13
    assert health.healthy_at(lines, wanted, 12) is None
    assert health.healthy_at(lines, {"web/store"}, 0) is None
    failed = [event("telemetry/prepare", "die", 11, "1")]
    assert health.healthy_at(failed, {"telemetry/prepare"}, 0) is None


def record(kind: int, size: int) -> bytes:
    return bytes([kind, 3, 3]) + size.to_bytes(2, "big") + bytes(size)


def test_a_handshake_ends_with_the_clients_first_hidden_record() -> None:
    count = Count()
    connection = Connection(count)
    hello, finished, request = record(22, 300), record(23, 53), record(23, 100)
    connection.from_client(hello[:200])
    connection.from_client(hello[200:])
    connection.from_server(record(22, 90) + record(23, 900))
    assert count.after_handshake == 0
    connection.from_client(record(20, 1) + finished + request)
    connection.from_server(record(23, 40))
    connection.from_client(request)
    assert count.after_handshake == 105 + 45 + 105
    assert count.total == 305 + 95 + 905 + 6 + 58 + 105 + 45 + 105


def test_the_relay_counts_a_real_connection(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    identity = authority.issue("127.0.0.1")
    listens = [sys.executable, str(BENCH / "serve.py"), str(tmp_path)]
    (tmp_path / "file").write_bytes(bytes(10_000))
    counts = tmp_path / "counts.json"
    with subprocess.Popen(
        [*listens, identity.certificate, identity.key], stdout=subprocess.PIPE
    ) as server:
        target = server.stdout.readline().decode().strip() if server.stdout else ""
        command = [sys.executable, str(BENCH / "relay.py"), target, str(counts)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as relay:
            port = int(relay.stdout.readline()) if relay.stdout else 0
            context = ssl.create_default_context(cafile=str(authority.path))
            with (
                socket.create_connection(("127.0.0.1", port)) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
            ):
                assert connection.version() == "TLSv1.3", "what the counting stands on"
                connection.sendall(b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n")
                got = 0
                while got < 10_000:
                    got += len(connection.recv(65536))
            found = parts.counts(counts)
            relay.kill()
        server.kill()
    assert found["connections"] == 1
    # The body, its headers, one request, two session tickets; the rest is the handshake.
    assert 10_000 < found["after_handshake"] < 11_500
    assert 500 < found["total"] - found["after_handshake"] < 5_000


def test_memory_of_a_process_and_all_that_it_starts() -> None:
    code = "import subprocess; x = bytearray(30_000_000); subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", code], process_group=0) as process:
        end = time.monotonic() + 20
        while not memory.descendants(process.pid):
            assert time.monotonic() < end
            time.sleep(0.01)
        with memory.Sampler(process.pid) as sampler:
            while not sampler.peaks.everything:
                time.sleep(0.01)
        child = memory.descendants(process.pid)[0]
        assert memory.name(child) == "sleep"
        os.killpg(process.pid, 9)
    assert sampler.peaks.everything >= sampler.peaks.agent >= 30_000_000
    assert memory.pss(process.pid) == 0
    assert memory.descendants(process.pid) == []


def test_threads_do_not_hide_children() -> None:
    threads = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    with subprocess.Popen(["sleep", "60"]) as child:
        assert child.pid in memory.descendants(os.getpid())
        child.kill()
    for thread in threads:
        thread.join()
