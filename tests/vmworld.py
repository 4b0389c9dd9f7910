"""What the tests in a virtual machine share: a maker's world, its web server, a device's image."""

from __future__ import annotations

import datetime
import fcntl
import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from mkfs import directory_with_mkfs
from stock import program
from world import CHANNEL, PASSWORD, TICKER, World

import devicetree
import image
from architecture import AMD64, Architecture
from disk import Disk
from tree import cache_directory

HERE = Path(__file__).resolve().parent
#: The port under which the guest sees the maker's server.
PORT = 8000
URL = f"http://{image.HOST_ADDRESS}:{PORT}"
DISK_SIZE = 4 * 1024**3
#: An emulated device takes its time, and each look at a container's health costs it a second.
PATIENT = (
    TICKER.replace("health_timeout: 40", "health_timeout: 400")
    .replace("interval: 1s\n", "interval: 60s\n")
    .replace("start_period: 10s", "start_period: 300s")
    .replace("start_interval: 200ms", "start_interval: 2s")
)
SETTINGS = f"""\
[device]
build_time = {devicetree.EPOCH}
[source]
url = "{URL}"
timeout = 10
attempts = 2
[report]
url = "{URL}/report"
[update]
"""
#: Polls only when a test asks for it.
QUIET = "interval = 86400\n"


class Server:
    """The maker's site and its collector of reports, on a loopback port of this machine."""

    def __init__(self, site: Path) -> None:
        self.reports: list[dict[str, Any]] = []
        self.paths: list[str] = []
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.paths.append(self.path)
                super().do_GET()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                server.reports.append(json.loads(body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(site))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens on this machine."""
        return "127.0.0.1", self._server.server_address[1]

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events that came, repeated ones too."""
        return [event for report in self.reports for event in report["events"]]

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


def open_world(directory: Path, architecture: Architecture = AMD64) -> World:
    """Open or make a world whose images are for an architecture."""
    if architecture == AMD64:
        return World(directory)
    program = devicetree.device_tree(architecture=architecture) / "boot" / "busybox"
    return World(directory, architecture.name, program.read_bytes())


def factory_world(architecture: Architecture = AMD64) -> Path:
    """Return a directory with a ``world`` of one release and its ``factory`` store.

    It is made once a day, so that images made of it are cached and its metadata is fresh: copy
    the world to change it.
    """
    sources = [HERE / "world.py", HERE / "vmworld.py"]
    sources += sorted((HERE.parent / "agent/composeapps").rglob("*.py"))
    text = b"".join(path.read_bytes() for path in sources)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    text += f"{today} {architecture.name}".encode()
    key = hashlib.sha256(text).hexdigest()[:12]
    final = cache_directory() / f"world-{key}"
    with (final.parent / "world.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.exists():
            temporary = final.with_name(f".tmp-{final.name}")
            shutil.rmtree(temporary, ignore_errors=True)
            (temporary / "world").mkdir(parents=True)
            world = open_world(temporary / "world", architecture)
            world.release({"a": world.ticker(1, compose=PATIENT, pinned=True)})
            preload(temporary / "world" / "site", temporary / "factory", architecture)
            os.replace(temporary, final)
    return final


def preload(site: Path, output: Path, architecture: Architecture = AMD64) -> None:
    """Write the factory store of a site's newest release, as a maker does."""
    platform = f"linux/{architecture.name}"
    publish("preload", str(site), CHANNEL, "--platform", platform, "--output", str(output))


def publish(*words: str) -> str:
    """Run ``composeapps-publish`` on this machine with the device's mkfs.erofs and Compose.

    Returns:
        what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="composeapps-tools-") as place:
        tools = directory_with_mkfs(Path(place))
        compose = tools / "docker-compose"
        compose.write_text(f'#!/bin/sh\nexec {" ".join(program("docker-compose", ""))} "$@"\n')
        compose.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
        environment["PYTHONPATH"] = str(HERE.parent / "agent")
        environment["COMPOSEAPPS_PASSWORD"] = PASSWORD
        command = [sys.executable, "-m", "composeapps.publish.cli", *words]
        if "--cache" not in words and words[0] != "init":
            command += ["--cache", str(tools / "cache")]
        done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE)
    return done.stdout.decode()


def device_disk(
    path: Path,
    factory: Path | None,
    settings: str = QUIET,
    other: Path | None = None,
    architecture: Architecture = AMD64,
) -> Disk:
    """Write a disk with the image of a device that has this factory store and settings.

    Args:
        other: factory store of the root image in slot B, which is empty without.
    """
    tree = devicetree.device_tree(architecture=architecture)
    roots = [
        image.root_image(image.Inputs(factory=store, settings=SETTINGS + settings), tree)
        for store in (factory, *([other] if other else []))
    ]
    image.write_disk(roots[0], path, DISK_SIZE, *roots[1:])
    return Disk(path)
