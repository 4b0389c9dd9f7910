"""The demo apps on a stock engine and stock Compose, without any of this project's code.

What fails here is a fault of the apps or the testbed, never of the agent.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.projects import SMALL, WEB_ENDS_AT_START, WEB_UNHEALTHY, write_project
from testbed import Testbed

#: Of each small project: service -> what its log has to hold; no other service may run.
SAYS = {
    "anchors": {"one": "anchored one", "two": "anchored two"},
    "configs": {"one": "from a file\nwritten here for configs"},
    "depends-on": {"last": "migrated", "slow": "", "plain": ""},
    "env-files": {"one": "one word two $words three four"},
    "extends": {"one": "base 0 one 1 two 2", "two": "base 0 one  two 2"},
    "include": {"one": "main", "part": "part included\npart configuration"},
    "override": {"one": "hello, override"},
    "profiles": {"always": "always runs", "field": "the field profile is on"},
    "replicas": {"worker": "worker\nworker\nworker", "asker": "3"},
    "secrets": {"one": "a token\na key\na-word"},
    "several-files": {"one": "site north"},
    "volumes": {"writer": "", "reader": "rule one\npage one\npage two"},
}
LOAD = """
import io, docker, sys, tarfile
read, write = io.BytesIO(), io.BytesIO()
with tarfile.open(fileobj=write, mode="w") as archive:
    archive.add(sys.argv[1], ".")
client = docker.from_env(timeout=120)
print(*sorted(tag for image in client.images.load(write.getvalue()) for tag in image.tags))
"""


@pytest.fixture(scope="module")
def loaded(testbed: Testbed, demo_layout: Path) -> Testbed:
    """A testbed whose engine has loaded all of the demo's images by itself."""
    shutil.copytree(demo_layout, testbed.work / "layout")
    printed = testbed.python(LOAD, "/run/work/layout")
    assert "demo.test/web:1" in printed
    return testbed


@pytest.fixture
def compose(loaded: Testbed) -> Iterator[Compose]:
    """Run Compose; whatever was started is gone afterwards, volumes too."""
    runner = Compose(loaded)
    yield runner
    for project in runner.started:
        loaded.run("docker-compose", "down", "-v", "-t", "2", cwd=project)


class Compose:
    """Stock Compose in the testbed, in projects that lie in its scratch space."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.started: list[str] = []

    def up(self, project: Path, *, good: bool = True) -> str:
        """Start a project and wait until it is healthy; returns where it lies in the tree."""
        inside = f"/run/work/{project.relative_to(self.bed.work)}"
        if inside not in self.started:
            self.started.append(inside)
        wait = ("up", "-d", "--wait", "--wait-timeout", "60")
        done = self.bed.run("docker-compose", *wait, cwd=inside, check=False)
        assert (done.returncode == 0) == good, done.stderr
        return inside

    def logs(self, inside: str, service: str) -> str:
        """Return what a service printed, without prefixes."""
        command = ("docker-compose", "logs", "--no-log-prefix", "--no-color", service)
        # Compose 2.26 clears the line even where there is no terminal.
        return self.bed.run(*command, cwd=inside).stdout.replace("\x1b[2K", "")

    def states(self, inside: str) -> dict[str, str]:
        """Return health, or state where there is no health check, by service."""
        command = ("docker-compose", "ps", "--all", "--format", "json")
        lines = self.bed.run(*command, cwd=inside).stdout.splitlines()
        return {item["Service"]: item["Health"] or item["State"] for item in map(json.loads, lines)}

    def get(self, path: str) -> tuple[int, str]:
        """Ask the web service through its published port."""
        code = (
            "import sys, urllib.request as r, urllib.error as e\n"
            "try: a = r.urlopen(sys.argv[1], timeout=5)\n"
            "except e.HTTPError as error: a = error\n"
            "print(a.status, a.read().decode())"
        )
        status, _, body = self.bed.python(code, f"http://127.0.0.1:8080{path}").partition(" ")
        return int(status), body.strip()


def test_web_counts_and_keeps_its_count_over_an_update(compose: Compose) -> None:
    inside = compose.up(write_project("web", 1, compose.bed.work))
    assert compose.states(inside) == {"store": "healthy", "web": "healthy"}
    assert compose.get("/") == (200, "<h1>Hello from this device</h1><p>version 1, visit 1</p>")
    assert "visit 2" in compose.get("/")[1]
    compose.up(write_project("web", 2, compose.bed.work))
    assert compose.get("/") == (200, "<h1>Hello from this device</h1><p>version 2, visit 3</p>")
    assert json.loads(compose.get("/visits")[1]) == {"version": 2, "visits": 3}


def test_web_that_never_becomes_healthy(compose: Compose) -> None:
    project = write_project("web", WEB_UNHEALTHY, compose.bed.work)
    # The health check's own times are the image's; a test need not wait for them.
    quick = "services: {web: {healthcheck: {interval: 1s, start_period: 1s, retries: 2}}}\n"
    (project / "compose.override.yaml").write_text(quick)
    inside = compose.up(project, good=False)
    assert compose.states(inside) == {"store": "healthy", "web": "unhealthy"}
    assert compose.get("/healthz")[0] == 503
    assert "schema is older than 3" in compose.get("/healthz")[1]


def test_web_that_ends_at_its_start(compose: Compose) -> None:
    inside = compose.up(write_project("web", WEB_ENDS_AT_START, compose.bed.work), good=False)
    assert compose.states(inside)["web"] in ("restarting", "starting", "exited", "unhealthy")
    assert "No module named 'visitor_statistics'" in compose.logs(inside, "web")


def test_telemetry_records_and_goes_on_over_an_update(compose: Compose) -> None:
    inside = compose.up(write_project("telemetry", 1, compose.bed.work))
    states = compose.states(inside)
    assert states.pop("prepare") == "exited"
    assert set(states.values()) == {"healthy"}
    before = wait_for_record(compose.bed, 1, 3)
    compose.up(write_project("telemetry", 2, compose.bed.work))
    after = wait_for_record(compose.bed, 2, 2)
    assert after[: len(before)] == before
    assert "memory_free" in after[-1]


def wait_for_record(bed: Testbed, version: int, count: int) -> list[dict[str, object]]:
    """Return the record's lines once it holds so many of that version (at most 20 s)."""
    path = bed.path("/var/lib/docker/volumes/telemetry_record/_data/telemetry.jsonl")
    for _ in range(200):
        text = path.read_text() if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1:] == "\n"]
        if len([line for line in lines if line["version"] == version]) >= count:
            return lines
        time.sleep(0.1)
    raise AssertionError(f"the record does not grow: {text[-500:]}")


@pytest.mark.parametrize("name", sorted(SAYS))
def test_small_project(compose: Compose, name: str) -> None:
    target = compose.bed.work / name
    shutil.copytree(SMALL / name, target)
    inside = compose.up(target)
    wanted = SAYS[name]
    finished = {"migrate"}
    assert set(compose.states(inside)) - finished == set(wanted)
    for service, text in wanted.items():
        assert text in compose.logs(inside, service)


def test_every_small_project_is_tried_and_explained() -> None:
    assert sorted(path.name for path in SMALL.iterdir()) == sorted(SAYS)
    for path in SMALL.iterdir():
        first = next(iter([*path.glob("compose.yaml"), *path.glob("base.yaml")]))
        assert first.read_text().startswith("# ")
