#!/usr/bin/python3 -IS
"""Runs in a test's guest and asks what has to be true on every device; prints one JSON object.

``ask.py healthy SECONDS`` waits until the engine says that all containers of Compose projects run
and are healthy; ``settled`` also that no switch between releases is under way: the engine starts
again what it ran before, and the agent goes on with the switch. ``ask.py law`` looks at the device
as it is, with means of its own: nothing of composeapps is imported.
``ask.py state VERSION NAME...`` waits until a release is in one of those.
``ask.py process NAME`` waits until a process of that name runs that began later than it.
``ask.py trace VERSION`` writes every change of its state to the console, for ten minutes.
``ask.py runs SECONDS ID...`` waits until all are healthy and of one of these images, by ID.
``ask.py content`` hashes files in the trees that containers see.
"""

import contextlib
import hashlib
import http.client
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

STATE = "/var/lib/composeapps/state.db"
STORES = ("/var/lib/composeapps/store", "/usr/share/composeapps/factory")
VOLUMES = Path("/var/lib/docker/volumes")
#: States in which the agent goes on by itself, network or not.
SWITCHING = ("installing", "starting", "rolling-back")
#: Seconds that a look at the state waits for who writes it.
PATIENCE = 10.0
#: Seconds between two looks at what is over in a moment, and looks until a file is opened anew.
PAUSE, LOOKS = 0.02, 50
#: What is looked at of a container's own tree: a program, and files that only one version has.
CONTENT = ("bin/busybox", "etc/noise-*")


class Engine(http.client.HTTPConnection):
    """Docker's API on its socket."""

    def __init__(self) -> None:
        super().__init__("docker", timeout=60)

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect("/run/docker.sock")


def get(path: str) -> object:
    """Ask the engine."""
    engine = Engine()
    try:
        engine.request("GET", path)
        return json.loads(engine.getresponse().read())
    finally:
        engine.close()


def containers() -> list[dict[str, object]]:
    """Return what the engine says of all containers of Compose projects."""
    filters = '{"label":["com.docker.compose.project"]}'
    found = get(f"/containers/json?all=1&filters={filters}")
    assert isinstance(found, list), found
    return found


def without_leftovers(found: list[dict[str, object]]) -> list[dict[str, object]]:
    """Leave out what a cut update of stock Docker left beside a container of the same service.

    One that was never started serves nobody, and its service runs. composeapps has to clear it up.
    """
    if Path(STATE).exists():
        return found
    begun = [item for item in found if item["State"] != "created"]
    have = [service(item) for item in begun]
    return begun + [item for item in found if item not in begun and service(item) not in have]


def service(item: dict[str, object]) -> tuple[object, ...]:
    """Return the project and the service that a container is of."""
    labels = item["Labels"]
    assert isinstance(labels, dict), item
    return tuple(labels.get(f"com.docker.compose.{name}") for name in ("project", "service"))


def healthy(ids: list[str] | None = None) -> bool:
    """Say whether there are containers, and all run, are healthy, and have one of these images."""
    try:
        found = without_leftovers(containers())
    except (OSError, ValueError, AssertionError, http.client.HTTPException):
        return False
    return bool(found) and all(
        item["State"] == "running"
        and "(healthy)" in str(item["Status"])
        and (ids is None or item["ImageID"] in ids)
        for item in found
    )


def wait(test: object, seconds: float, pause: float) -> bool:
    """Wait until a test says yes; say whether it did."""
    assert callable(test)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if test():
            return True
        time.sleep(pause)
    return False


def rows(query: str, patience: float = 0.0) -> list[tuple[object, ...]]:
    """Ask the state, for so many seconds while somebody writes; nothing where there is none."""
    try:
        with contextlib.closing(connect(patience)) as database:
            return database.execute(query).fetchall()
    except sqlite3.Error:
        return []


def connect(patience: float) -> sqlite3.Connection:
    """Open the state."""
    return sqlite3.connect(f"file:{STATE}?mode=ro", uri=True, timeout=patience)


def settled() -> bool:
    """Say whether all are healthy and the agent is not about to change that."""
    found = rows("SELECT state FROM release", PATIENCE)
    known = bool(found) or not Path(STATE).exists()  # stock Docker has none
    return known and not any(state in SWITCHING for (state,) in found) and healthy()


def states(version: int, seconds: float) -> Iterator[str]:
    """Tell a release's state, again and again; empty where there is none.

    The file is opened once in fifty looks: what is waited for needs the processor itself.
    """
    query = f"SELECT state FROM release WHERE version = {version}"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(sqlite3.Error), contextlib.closing(connect(0.0)) as database:
            for _ in range(LOOKS):
                found = database.execute(query).fetchall()
                yield str(found[0][0]) if found else ""
                time.sleep(PAUSE)
        time.sleep(PAUSE)


def has_process(name: str) -> bool:
    """Say whether a younger process of this name runs (the first 15 characters of it)."""
    for number in os.listdir("/proc"):
        if not number.isdigit() or int(number) <= os.getpid():
            continue
        try:
            if Path("/proc", number, "comm").read_text().strip() == name:
                return True
        except OSError:  # it has ended
            continue
    return False


def trace(version: int) -> None:
    """Write every change of a release's state to the console."""
    before = ""
    for state in states(version, 600):
        if state not in ("", before):
            before = state
            Path("/dev/console").write_text(f"\nrelease {version} is {before}\n")


def damaged() -> list[str]:
    """Return every blob and sealed layer whose bytes are not what its name says (law L2)."""
    wrong = []
    for store in STORES:
        for path in [*Path(store).glob("blobs/sha256/*"), *Path(store).glob("layers/*.erofs")]:
            if path.name.startswith("."):
                continue
            name = path.name.removesuffix(".erofs").rsplit(".", 1)[-1]
            if digest(path) != name:
                wrong.append(str(path))
    return wrong


def digest(path: Path) -> str:
    """Return a file's SHA-256; the error, where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return str(error)


def content() -> list[dict[str, str]]:
    """Return digests of files as the processes of each running container see them."""
    found = []
    for item in containers():
        known = get(f"/containers/{item['Id']}/json")
        assert isinstance(known, dict), known
        root = Path(f"/proc/{known['State']['Pid']}/root")
        files = [path for pattern in CONTENT for path in root.glob(pattern)]
        found.append({str(path.relative_to(root)): digest(path) for path in files})
    return found


def law() -> dict[str, object]:
    """Return what the law is judged by."""
    lines = subprocess.run(["ss", "-Hlntuw"], capture_output=True, text=True, check=True).stdout
    found = containers()
    images = sorted({str(item["Image"]) for item in found})
    return {
        "healthy": healthy(),
        "containers": [f"{item['Names']}: {item['Status'] or item['State']}" for item in found],
        "damaged": damaged(),
        "listening": lines.splitlines(),
        "images": images,
        "volumes": {
            str(path.relative_to(VOLUMES)): path.read_text("utf-8", "replace")
            for path in VOLUMES.glob("*/_data/log")
        },
        "events": rows("SELECT id, kind, body, sent FROM event ORDER BY time", PATIENCE),
        "releases": rows("SELECT version, state FROM release ORDER BY version", PATIENCE),
        "current": rows("SELECT value FROM meta WHERE key = 'current'", PATIENCE),
        "written": int(Path("/sys/block/vda/stat").read_text().split()[6]) * 512,
        "uptime": float(Path("/proc/uptime").read_text().split()[0]),
    }


def main(verb: str, arguments: list[str]) -> int:
    """Do one of them; the exit code says whether what was waited for came."""
    if verb in ("healthy", "settled"):
        test = healthy if verb == "healthy" else settled
        return 0 if wait(test, float(arguments[0]), 1.0) else 1
    if verb == "runs":
        return 0 if wait(lambda: healthy(arguments[1:]), float(arguments[0]), 0.5) else 1
    if verb == "state":  # of one release
        os.nice(-5)  # what it waits for is over in a moment
        version, *names = arguments
        return 0 if any(state in names for state in states(int(version), 900)) else 1
    if verb == "process":
        os.nice(-5)
        return 0 if wait(lambda: has_process(arguments[0]), 900, PAUSE) else 1
    if verb == "trace":
        trace(int(arguments[0]))
    else:
        print(json.dumps(content() if verb == "content" else law()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
