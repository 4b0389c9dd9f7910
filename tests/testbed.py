"""A Docker Engine that is the device's own, in namespaces of its own on this machine.

The file tree is the device's (``qemu/tree.py``: Debian trixie, or sid for the newest engine). It
runs in its own mount, network, PID, IPC and UTS namespaces: a Docker of the host is never touched,
and everything ends with the first process. ``/var/lib/{docker,containerd,composeapps}`` lie on a
loop-mounted ext4 image, because a sealed file on an overlay cannot be mounted.

    with Testbed(Path("/var/tmp/bed")) as bed:
        bed.engine("start")
        bed.run("composeapps", "status")           # in the tree, next to the engine
        bed.start_here([sys.executable, "server.py"])  # this machine's files, its own network

The network namespace holds only its own loopback: servers for the tests are started in it by
``start_here`` and listen on 127.0.0.1. In the tree, ``/run/work`` is ``bed.work`` (scratch space
shared with the host), ``/usr/share/composeapps`` is ``bed.share`` (root.json, factory store),
``/etc/composeapps`` is ``bed.etc``. The package ``composeapps`` is this work tree's, read live.
``testbed-engine start|stop|kill`` stands in for systemd there and is named as such.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "qemu"))
from tree import tree  # noqa: E402 - needs the path above

DATA_SIZE = 12 * 1024**3
SETTINGS = """\
[engine]
stop = ["/run/testbed-engine", "stop"]
start = ["/run/testbed-engine", "start"]
reset_failed = []
"""
NAMESPACES = ("-m", "-n", "-p", "-i", "-u", "-r", "-w")


class Testbed:
    """One engine with its data; ``stop`` and ``start`` again is a reboot."""

    __test__ = False  # not a test class, whatever its name says

    def __init__(self, directory: Path, suite: str = "", data_size: int = DATA_SIZE) -> None:
        self.directory = directory
        self.suite = suite or os.environ.get("ENGINE") or "trixie"
        self.data_size = data_size
        self.work = directory / "work"
        self.etc = directory / "etc" / "composeapps"
        self.share = directory / "share"
        self._init: subprocess.Popen[bytes] | None = None
        self._others: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Testbed:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The first process of the namespaces, as this machine numbers it."""
        assert self._init is not None, "the testbed is not started"
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text()
        return int(children.split()[0])

    def start(self) -> None:
        """Make what is missing, enter the namespaces; the engine itself is not started."""
        self._prepare()
        command = ["unshare", "-m", "-n", "-p", "-i", "-u", "--fork", "--kill-child"]
        command += [
            str(HERE / "testbed-init.sh"),
            str(tree(self.suite)),
            str(self.directory),
        ]
        with (self.directory / "init.log").open("ab") as log:
            self._init = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self._init.stdout is not None
        if self._init.stdout.readline() != b"ready\n":
            self._init.wait()
            raise RuntimeError(f"testbed: {(self.directory / 'init.log').read_text()[-2000:]}")

    def _prepare(self) -> None:
        for path in (
            self.work,
            self.etc,
            self.share,
            self.directory / "etc" / "docker",
        ):
            path.mkdir(parents=True, exist_ok=True)
        image = self.directory / "data.img"
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(self.data_size)
            options = ["-q", "-b", "4096", "-O", "verity", "-E", "lazy_itable_init=1"]
            subprocess.run(["mkfs.ext4", *options, str(image)], check=True)
        daemon = {
            "features": {"containerd-snapshotter": True},
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": f"/composeapps-{os.getpid()}",
            "log-level": "warn",
        }
        (self.directory / "etc" / "docker" / "daemon.json").write_text(json.dumps(daemon))
        if not (self.etc / "composeapps.toml").exists():
            (self.etc / "composeapps.toml").write_text(SETTINGS)
        package = self.directory / "package"
        if not package.is_symlink():
            package.symlink_to(HERE.parent / "agent" / "composeapps")
        shutil.copy(HERE / "testbed-engine.sh", self.directory / "testbed-engine")

    def stop(self) -> None:
        """End everything at once, as when the power goes (the page cache stays)."""
        for process in self._others:
            process.kill()
            process.wait()
        self._others.clear()
        if self._init is not None:
            os.kill(self.pid, signal.SIGKILL)
            self._init.wait()
            if self._init.stdout is not None:
                self._init.stdout.close()
            self._init = None

    def reboot(self) -> None:
        """Stop and start again: mounts, processes and /run are gone, the data is still there."""
        self.stop()
        self.start()

    def engine(self, verb: str) -> None:
        """Start, stop or kill dockerd and containerd."""
        self.run("/run/testbed-engine", verb)

    def argv(self, *command: str, cwd: str = "/") -> list[str]:
        """Return the command line that runs ``command`` in the tree, for Popen and strace."""
        return [
            "nsenter",
            "-t",
            str(self.pid),
            *NAMESPACES,
            "--",
            "env",
            "-C",
            cwd,
            *command,
        ]

    def run(
        self,
        *command: str,
        check: bool = True,
        data: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 600,
        cwd: str = "/",
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the tree to its end; output is captured as text.

        Raises:
            RuntimeError: its exit code is not 0 and ``check`` is set; holds the output.
        """
        done = subprocess.run(
            self.argv(*command, cwd=cwd),
            input=data,
            stdin=None if data is not None else subprocess.DEVNULL,
            capture_output=True,
            env=environment(env),
            timeout=timeout,
            check=False,
        )
        out, err = (
            done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{command} ended with {done.returncode}\n{out}\n{err}")
        return subprocess.CompletedProcess(command, done.returncode, out, err)

    def python(self, code: str, *arguments: str, check: bool = True) -> str:
        """Run Python code in the tree's interpreter and return what it printed."""
        return self.run("python3", "-c", code, *arguments, check=check).stdout

    def start_in(
        self, *command: str, stdout: IO[bytes] | int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a program in the tree and leave it running until ``stop``."""
        process = subprocess.Popen(
            self.argv(*command), stdout=stdout, stderr=stdout, env=environment()
        )
        self._others.append(process)
        return process

    def start_here(
        self, command: Sequence[str], stdout: IO[bytes] | int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a program of this machine in the testbed's network only, until ``stop``."""
        process = subprocess.Popen(
            ["nsenter", "-t", str(self.pid), "-n", "--", *command],
            stdout=stdout,
            stderr=stdout,
        )
        self._others.append(process)
        return process

    def path(self, inside: str) -> Path:
        """Return where this machine sees a path of the tree, mounts included."""
        return Path(f"/proc/{self.pid}/root", inside.lstrip("/"))


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of programs in the tree."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        **(extra or {}),
    }
