"""A device in the testbed that follows a small world, driven by its real command line."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from world import CHANNEL, World

from testbed import SETTINGS, Testbed

STORE = "/var/lib/composeapps/store"
LAYERS = "/run/composeapps/layers"


def writable(path: Path) -> Path:
    """Let a sealed layer be damaged: fs-verity makes a file read-only, so that becomes another."""
    try:
        path.open("r+b").close()
    except PermissionError:
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    return path


class Rig:
    """One testbed, one world."""

    def __init__(self, bed: Testbed, settings: str = "") -> None:
        self.bed = bed
        self.world = World(bed.work)
        (bed.share / "root.json").write_bytes(self.world.root)
        self.configure(settings)

    def configure(
        self, settings: str = "", source: str = "/run/work/site", engine: str = ""
    ) -> None:
        """Write the device's settings: TOML after what every test needs, lines for [engine]."""
        text = f"{SETTINGS}ready_timeout = 15\n{engine}\n"
        text += f'[source]\nurl = "{source}"\nattempts = 1\n{settings}'
        (self.bed.etc / "composeapps.toml").write_text(text)

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a verb, which has to end with ``code``; return its standard output."""
        done = self.bed.run("composeapps", *arguments, check=False)
        said = f"composeapps {' '.join(arguments)} ended with {done.returncode}, not {code}"
        assert done.returncode == code, f"{said}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a verb with --json and return what it printed."""
        return json.loads(self.run(*arguments, "--json", code=code))

    def update(self, apps: dict[str, str], code: int = 0) -> int:
        """Sign a release and update to it; return its version."""
        version = self.world.release(apps)
        self.run("update", code=code)
        return version

    def preload(self, name: str) -> Path:
        """Make a factory store of the channel's newest release, aside; return its directory."""
        how = ("--platform", "linux/amd64", "--cache", "/run/work/cache")
        output = ("--output", f"/run/work/{name}")
        command = ("composeapps-publish", "preload", "/run/work/site", CHANNEL, *how, *output)
        self.bed.run(*command)
        return self.bed.work / name

    def boot(self, factory: Path | None = None) -> None:
        """Start the device again up to before its engine, with an image that carries a store."""
        self.bed.stop()
        shutil.rmtree(self.bed.share / "factory", ignore_errors=True)
        if factory is not None:
            shutil.copytree(factory, self.bed.share / "factory")
        self.bed.start()

    @contextmanager
    def resident(self, log: Path | None = None) -> Iterator[None]:
        """Run the resident part for a while, its output in a file, and stop it in order."""
        with (log or self.bed.work / "resident.log").open("wb") as output:
            started = self.bed.start_in("composeapps", "run", stdout=output)
            try:
                yield
            finally:  # nsenter passes no signal on
                self.bed.run("pkill", "-TERM", "-f", "composeapps.cli run$", check=False)
                started.wait(60)

    def offline(self) -> AbstractContextManager[None]:
        """Take the site away for a while."""
        return self.world.away()

    def log(self, app: str = "a") -> list[str]:
        """Return the lines that an app's service has written to its volume."""
        path = self.bed.path(f"/var/lib/docker/volumes/{app}_data/_data/log")
        return path.read_text().split()

    def version(self) -> int:
        """Return the version of the current release."""
        return int(self.json("status")["current"]["version"])

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Return kind and body of every event, oldest first, from the state file itself."""
        database = sqlite3.connect(":memory:")
        database.deserialize(self.bed.path("/var/lib/composeapps/state.db").read_bytes())
        rows = database.execute("SELECT kind, body FROM event ORDER BY rowid").fetchall()
        database.close()
        return [(kind, json.loads(body)) for kind, body in rows]

    def layer_files(self) -> list[Path]:
        """Return the sealed layers of the data store."""
        return sorted(self.bed.path(f"{STORE}/layers").glob("*.erofs"))

    def mounted(self) -> int:
        """Return how many sealed layers are mounted."""
        return self.bed.run("cat", "/proc/self/mountinfo").stdout.count(f" {LAYERS}/")


def on_second_release(bed: Testbed) -> Rig:
    """Return a device whose current release is 2 and whose previous one is 1."""
    rig = Rig(bed)
    rig.update({"a": rig.world.ticker(1)})
    rig.update({"a": rig.world.ticker(2)})
    return rig
