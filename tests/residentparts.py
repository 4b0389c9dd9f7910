"""What the tests of the resident part as a process share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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


def count(entry: str, number: int) -> Callable[[list[str]], bool]:
    return lambda log: log.count(entry) >= number
