"""The parts of the comparison; each does the same on any side and notes what it took."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

from certificates import Authority

from bench import health, memory
from bench.inside import poll
from bench.results import MB, Results
from bench.sides import (
    COMPILED,
    ENGINE_STORE,
    EVERYTHING,
    HERE,
    Sealed,
    Side,
    Stock,
    Versions,
)
from testbed import environment

PAGE = "http://127.0.0.1:8080/healthz"
FIRST, SECOND = ({"telemetry": number, "web": number} for number in (1, 2))
REMOVE = """
import docker
client = docker.from_env()
for container in client.containers.list(all=True):
    container.remove(force=True)
client.networks.prune()
"""
#: Seconds of quiet around what is polled.
QUIET = 1.5


def step(
    side: Side, results: Results, key: str, wanted: Collection[str], work: Callable[[], None]
) -> None:
    """Do some work and note seconds until all wanted services are healthy, and what it took."""
    wire, written, used = side.wire(), side.written(), side.used()
    with health.Watch(side.bed) as watch:
        since = time.time()
        work()
        command = time.time() - since
        seconds = watch.wait(wanted, since)
    results.add(f"{key}.seconds", side.name, seconds, command=command)
    found = {
        "wire": side.wire() - wire,
        "written": side.written() - written,
        "used": side.used() - used,
    }
    for what, count in found.items():
        if f"{key}.{what}" in results:
            results.add(f"{key}.{what}", side.name, count / MB)


def install_and_update(side: Side, results: Results) -> None:
    """Install version 1 where nothing is, then update to version 2, both from the registry."""
    empty = side.used()
    if isinstance(side, Sealed):
        side.release(FIRST)
    step(side, results, "first", health.ALL, lambda: side.install(FIRST))
    if isinstance(side, Sealed):
        side.release(SECOND)
    step(side, results, "update", health.CHANGED, lambda: side.install(SECOND))
    results.add("both.used", side.name, (side.used() - empty) / MB)


def downtime(side: Side, results: Results, runs: int) -> None:
    """Note for how long the web service is away while it goes to another version that is here."""
    for run in range(runs):
        versions = {"telemetry": 2, "web": 1 + run % 2}
        side.fetch(versions)
        results.add("downtime", side.name, _away(side, versions))


def _away(side: Side, versions: Versions) -> float:
    output = side.bed.work / "looks.json"
    command = [sys.executable, str(HERE / "inside" / "poll.py"), PAGE, str(output)]
    with (side.bed.directory / "poll.log").open("wb") as log:
        poller = side.bed.start_here(command, stdout=log)
    time.sleep(QUIET)
    with health.Watch(side.bed) as watch:
        since = time.time()
        side.switch(versions)
        watch.wait({"web/web"}, since)
    time.sleep(QUIET)
    poller.terminate()
    poller.wait(30)
    looks = [(begin, end, good) for begin, end, good in json.loads(output.read_text())]
    if not looks or not looks[0][2] or not looks[-1][2]:
        raise RuntimeError("the web service did not answer before and after its update")
    return sum(poll.away(looks))


def preloaded(side: Side, results: Results, runs: int) -> None:
    """Start where only the device's image holds apps, nothing was ever run."""
    side.preload(SECOND)
    for _ in range(runs):
        side.lose(EVERYTHING)
        step(side, results, "preloaded", health.ALL, lambda: side.recover(SECOND))


def lost(side: Side, results: Results, runs: int) -> None:
    """Start where the engine's whole store but volumes is gone; the archive is still there."""
    if isinstance(side, Stock):
        side.preload(SECOND)
    for _ in range(runs):
        side.lose(ENGINE_STORE)
        step(side, results, "lost", health.ALL, lambda: side.recover(SECOND))
    if isinstance(side, Stock):
        side.lose(ENGINE_STORE)
        side.together = True
        with health.Watch(side.bed) as watch:
            since = time.time()
            side.recover(SECOND)
            results.add("lost.together", side.name, watch.wait(health.ALL, since))
        side.together = False


def bare(side: Side, results: Results, runs: int) -> None:
    """Start where all images are there and no container: what nobody can be faster than."""
    for _ in range(runs):
        side.bed.python(REMOVE)
        step(side, results, "bare", health.ALL, lambda: side.resume(SECOND))


def large(side: Side, results: Results, runs: int) -> None:
    """Do the two parts before once more with a large image among the apps'."""
    versions = {"bulk": 1, **SECOND}
    if isinstance(side, Stock):
        side.fetch({"bulk": 1})
    side.preload(versions)
    for key, command in (("large.preloaded", EVERYTHING), ("large.lost", ENGINE_STORE)):
        for _ in range(runs):
            side.lose(command)
            step(side, results, key, {*health.ALL, "bulk/bulk"}, lambda: side.recover(versions))


def check(side: Side, results: Results, directory: Path, runs: int) -> None:
    """Look for something new where there is nothing: wire bytes and CPU."""
    if isinstance(side, Sealed):
        _check_by_tls(side, results, directory, runs)
        return
    for _ in range(runs):
        wire, engine = side.wire(), _engine_cpu(side)
        cpu = _cpu(lambda: side.fetch(SECOND))
        results.add("check.tls", side.name, side.wire() - wire, note="plain http")
        results.add("check.cpu", side.name, cpu + _engine_cpu(side) - engine)


def _check_by_tls(side: Sealed, results: Results, directory: Path, runs: int) -> None:
    directory.mkdir(exist_ok=True)
    authority = Authority(directory)
    identity = authority.issue("127.0.0.1")
    site, output = side.bed.work / "site", directory / "counts.json"
    keys = [str(identity.certificate), str(identity.key)]
    port = side.serve([str(HERE / "serve.py"), str(site), *keys])
    relay = side.serve([str(HERE / "relay.py"), str(port), str(output)])
    (side.bed.work / "ca.pem").write_bytes(authority.path.read_bytes())
    side.use(f"https://127.0.0.1:{relay}", "/run/work/ca.pem")
    side.run("check")  # the first after a change of anything may look at more
    before = counts(output)
    for _ in range(runs):
        engine = _engine_cpu(side)
        cpu = _cpu(lambda: side.run("check"))
        after = counts(output, before["connections"])
        results.add("check.cpu", side.name, cpu + _engine_cpu(side) - engine)
        wire, tls = (after[key] - before[key] for key in ("after_handshake", "total"))
        results.add("check.wire", side.name, wire, connections=after["connections"])
        results.add("check.tls", side.name, tls)
        before = after
    side.use()


def counts(path: Path, more_than: int = 0) -> dict[str, int]:
    """Return what the relay counted, once it has seen another connection end."""
    end = time.monotonic() + 10
    while True:
        if path.exists():
            found: dict[str, int] = json.loads(path.read_text())
            if found["connections"] > more_than:
                time.sleep(0.2)
                return dict(json.loads(path.read_text()))
        if time.monotonic() > end:
            raise TimeoutError("the relay saw no connection")
        time.sleep(0.02)


def _cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds of the children that some work waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _engine_cpu(side: Side) -> float:
    """Return the CPU seconds that dockerd and containerd have used."""
    pids = side.bed.run("pgrep", "-x", "dockerd|containerd").stdout.split()
    total = 0
    for pid in pids:
        stat = side.bed.run("cat", f"/proc/{pid}/stat").stdout.rpartition(")")[2].split()
        total += int(stat[11]) + int(stat[12])
    return total / os.sysconf("SC_CLK_TCK")


def reading(side: Side, results: Results, runs: int) -> None:
    """Note how fast a container starts and reads, its image's pages cached or not."""
    versions = {"bulk": 1, **SECOND}
    if isinstance(side, Sealed):
        side.release(versions)
    side.install(versions)
    code = "import docker; print(docker.from_env().api.inspect_container('bulk-bulk-1')['Image'])"
    image = side.bed.python(code).strip()
    start = ("python3", "-c", "import http.server, json, email.message")
    for _ in range(runs):
        for what, words in (
            ("start", start),
            ("sequential", ("python3", "/bench/read.py", "sequential", "/srv/bulk")),
            ("random", ("python3", "/bench/read.py", "random", "/srv/bulk")),
        ):
            subprocess.run(["sync"], check=True)
            Path("/proc/sys/vm/drop_caches").write_text("3")
            for state in ("cold", "warm"):
                found = _container(side, image, words)
                value = found["seconds"] if what == "start" else float(found["said"]) / MB
                results.add(f"{what}.{state}", side.name, float(value))


def _container(side: Side, image: str, words: tuple[str, ...]) -> dict[str, str]:
    command = ("python3", "/run/work/inside/container.py", image, "/run/work/inside", *words)
    found: dict[str, str] = json.loads(side.bed.run(*command).stdout)
    return found


def footprint(side: Sealed, results: Results) -> None:
    """Note the memory of an update from nothing, and of the resident part when it waits."""
    side.lose(EVERYTHING)
    side.bed.run("rm", "-rf", "/mnt/data/factory")
    side.release(FIRST)
    command = side.bed.argv("composeapps", "update")
    process = subprocess.Popen(
        command, env=environment(COMPILED), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    with memory.Sampler(process.pid) as sampler:
        code = process.wait()
    if code:
        raise RuntimeError(f"composeapps update ended with {code}")
    peaks = sampler.peaks
    results.add("memory.agent", side.name, peaks.agent / MB)
    results.add("memory.all", side.name, peaks.everything / MB, made_of=peaks.made_of)
    results.add("memory.sealing", side.name, peaks.sealing / MB)
    resident = side.bed.start_in(
        "env", *(f"{k}={v}" for k, v in COMPILED.items()), "composeapps", "run"
    )
    results.add("memory.idle", side.name, _idle(resident.pid) / MB)
    resident.terminate()


def _idle(pid: int) -> int:
    """Return the PSS of the resident part once its first children have ended."""
    end, quiet = time.monotonic() + 90, 0
    while quiet < 20:
        programs = [one for one in [pid, *memory.descendants(pid)] if memory.name(one)]
        agents = [one for one in programs if memory.name(one).startswith("python")]
        quiet = quiet + 1 if len(agents) == 1 else 0
        if time.monotonic() > end:
            raise TimeoutError("composeapps run does not come to rest")
        time.sleep(0.25)
    return memory.pss(agents[0])
