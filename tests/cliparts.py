"""What the tests of the command share."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

CLI = [sys.executable, "-m", "composeapps.cli"]


SETTINGS = """
[device]
id = "test"
[paths]
data = "{root}/data"
run = "{root}/run"
factory = "{root}/factory"
root = "{root}/root.json"
[source]
url = "file://{root}/nowhere"
[engine]
docker = "unix://{root}/docker.sock"
containerd = "{root}/containerd.sock"
docker_root = "{root}/docker"
containerd_root = "{root}/containerd"
stop = ["false"]
start = ["false"]
ready_timeout = 0
"""


def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; a traceback is never an answer."""
    done = subprocess.run(
        [*CLI, *arguments], capture_output=True, text=True, timeout=60, check=False, **more
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def failed(code: int, *arguments: str, **more: Any) -> str:
    """Run a command that fails and return its one sentence."""
    done = run(*arguments, **more)
    assert (done.returncode, done.stdout) == (code, ""), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("composeapps: ")
    return line.removeprefix("composeapps: ")
