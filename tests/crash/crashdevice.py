"""A device in the testbed that can be killed at any point and looked at from outside."""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world import CHANNEL, TICKER, World, base_layer, noise_layer

from testbed import Testbed

HERE = Path(__file__).resolve().parent
APP = "a"
DATA = "/var/lib/composeapps"
LAYERS = "/run/composeapps/layers"
LOG = f"/var/lib/docker/volumes/{APP}_data/_data/log"
#: What the engine's store and the agent's lie in; a device without them is fresh.
STORES = (DATA, "/var/lib/docker", "/var/lib/containerd")
#: struct shared in crashpoint.c: count, at, log, alone, first, name, path.
SHARED = struct.Struct("<QQIII32s400s4x")
#: Seconds; no verb on this small world takes longer, a hang is a broken law.
TIMEOUT = 120.0
SETTINGS = """\
[engine]
stop = ["/run/testbed-engine", "stop"]
start = ["/run/testbed-engine", "start"]
ready_timeout = 20
[source]
url = "http://127.0.0.1:{port}"
attempts = 1
[report]
url = "http://127.0.0.1:{port}/report"
"""


@dataclass(frozen=True)
class Point:
    """One call before which a run is killed."""

    number: int
    name: str
    path: str

    def __str__(self) -> str:
        return f"point {self.number} ({self.name} {self.path})"


@dataclass(frozen=True)
class Run:
    """How a verb ended."""

    verb: str
    code: int
    output: str

    def __str__(self) -> str:
        return f"composeapps {self.verb} ended with {self.code}: {self.output.strip()[-600:]}"


class CrashDevice:
    """One testbed with its small world, one app on it, and a web server in its network."""

    def __init__(self, directory: Path) -> None:
        """Start everything; the device holds no release yet."""
        shutil.rmtree(directory, ignore_errors=True)
        self.bed = Testbed(directory)
        self.bed.start()
        self.world = World(self.bed.work)
        (self.bed.share / "root.json").write_bytes(self.world.root)
        self.posts = self.bed.work / "posts"
        library = self.bed.work / "crashpoint.so"
        source = HERE / "crashpoint.c"
        command = ["gcc", "-O1", "-Wall", "-shared", "-fPIC", str(source), "-o"]
        subprocess.run([*command, str(library), "-ldl"], check=True)
        self._shared = self.bed.work / "crashpoint"
        self._points = self.bed.work / "crashpoint.log"
        #: What each version's image is called, and of the newest release the version.
        self.images: dict[int, str] = {}
        self.version = 0
        #: The version that the image carries; 0 for none.
        self.factory_version = 0
        self._serve()
        self.bed.engine("start")

    def close(self) -> None:
        """End everything and remove its files."""
        self.bed.stop()
        shutil.rmtree(self.bed.directory, ignore_errors=True)

    def _serve(self) -> None:
        port = self.bed.work / "port"
        port.unlink(missing_ok=True)
        arguments = [str(self.world.site), str(self.posts), str(port)]
        self.bed.start_here([sys.executable, str(HERE / "crashsite.py"), *arguments])
        deadline = time.monotonic() + 30  # an interpreter's start on a busy machine
        while not port.exists():
            assert time.monotonic() < deadline, "crashsite.py does not start"
            time.sleep(0.02)
        self.port = int(port.read_text())
        (self.bed.etc / "composeapps.toml").write_text(SETTINGS.format(port=self.port))

    def publish(self, *, good: bool = True) -> int:
        """Sign the next release, one that passes its gate or not, and return its version."""
        seed = self.version + 1
        layers = [base_layer(), noise_layer(seed, 100_000)]
        image = self.world.image("ticker", layers, {})
        compose = TICKER if good else TICKER.replace("trap exit TERM;", "exit 3;")
        artifact = self.world.app(compose.format(image=image, mark=f"v{seed}"))
        self.version = self.world.release({APP: artifact})
        assert self.version == seed, "nobody else signs releases"
        self.images[seed] = image
        return seed

    def run(self, *arguments: str) -> Run:
        """Run a verb to its end."""
        done = self.bed.run("composeapps", *arguments, check=False, timeout=TIMEOUT)
        return Run(" ".join(arguments), done.returncode, done.stdout + done.stderr)

    def run_well(self, *arguments: str) -> None:
        """Run a verb that has to succeed."""
        done = self.run(*arguments)
        assert done.code == 0, str(done)

    def run_killed(
        self, number: int, *arguments: str, alone: bool = False
    ) -> tuple[Run, Point | None]:
        """Run a verb that is killed before its call ``number``; 0 kills none, and counts them.

        Args:
            alone: kill the command's own process only; programs that it has started go on.

        Returns:
            how it ended, and the point that was reached; None if there were fewer points.
        """
        self._shared.write_bytes(SHARED.pack(0, number, number == 0, alone, 0, b"", b""))
        self._points.unlink(missing_ok=True)
        preload = ["LD_PRELOAD=/run/work/crashpoint.so", "CRASHPOINT=/run/work/crashpoint"]
        command = ["setsid", "--wait", "env", *preload, "python3", "-m", "composeapps.cli"]
        done = self.bed.run(*command, *arguments, check=False, timeout=TIMEOUT)
        *_, name, path = SHARED.unpack(self._shared.read_bytes())
        run = Run(" ".join(arguments), done.returncode, done.stdout + done.stderr)
        if not name.strip(b"\0"):
            return run, None
        texts = [part.split(b"\0")[0].decode("utf-8", "replace") for part in (name, path)]
        return run, Point(number, texts[0], texts[1])

    def points(self) -> list[Point]:
        """Return the points that the last ``run_killed`` passed, if it was to be killed at none."""
        rows = (line.split(" ", 2) for line in self._points.read_text().splitlines())
        return [Point(int(number), name, path) for number, name, path in rows]

    def power_loss(self) -> None:
        """End every process at once and boot: /run and mounts are gone, ``mount`` comes first."""
        self.bed.reboot()
        self._serve()
        run = self.run("mount")
        assert run.code in (0, 6, 8), str(run)
        self.bed.engine("start")

    def wipe(self) -> None:
        """Make it a fresh device: no release, no engine store, no volume, nothing reported."""
        self.bed.reboot()
        for store in STORES:
            for path in self.bed.path(store).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.posts.unlink(missing_ok=True)
        self._serve()
        self.bed.engine("start")

    def make_factory(self) -> None:
        """Put the newest release into the device's image, by the maker's own command."""
        factory = self.bed.work / "factory"
        where = ("--cache", "/run/work/cache", "--output", "/run/work/factory")
        what = ("/run/work/site", CHANNEL, "--platform", "linux/amd64")
        self.bed.run("composeapps-publish", "preload", *what, *where)
        factory.rename(self.bed.share / "factory")
        self.factory_version = self.version

    def offline(self) -> AbstractContextManager[None]:
        """Take the network away for a while."""
        return self.world.away()

    def log(self) -> list[str]:
        """Return the lines that the app has written to its volume, each one fsynced."""
        path = self.bed.path(LOG)
        return path.read_text().split() if path.exists() else []

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what a query finds in a copy of the state file; nothing where there is none."""
        path = self.bed.path(f"{DATA}/state.db")
        if not path.exists():
            return []
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(path.read_bytes())
            return database.execute(query).fetchall()

    def current(self) -> int:
        """Return the version of the committed release; 0 for none."""
        query = "SELECT version FROM release JOIN meta ON value = digest WHERE key = 'current'"
        return max((int(version) for (version,) in self.rows(query)), default=0)

    def events(self) -> list[dict[str, Any]]:
        """Return the event table."""
        return [
            {"id": id_, "kind": kind, "body": json.loads(body), "sent": bool(sent)}
            for id_, kind, body, sent in self.rows("SELECT id, kind, body, sent FROM event")
        ]

    def delivered(self) -> list[dict[str, Any]]:
        """Return every event that the report server was sent, repeats too."""
        if not self.posts.exists():
            return []
        lines = self.posts.read_text().splitlines()
        return [event for line in lines for event in json.loads(line)["events"]]
