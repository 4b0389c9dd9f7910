"""The one place that starts other programs: argv lists, a clean environment, one error.

The idea of a single, logged place to start processes is mkosi's (``mkosi/run.py``).
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from composeapps.errors import ComposeAppsError

#: What a child sees of our environment; the rest could change what it does.
KEPT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "DOCKER_HOST", "SSL_CERT_FILE")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: For ``start``: a pipe to the caller, and nothing at all.
PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL


class ProcessError(ComposeAppsError):
    """A program is missing, ran too long or ended with a code other than 0."""

    exit_code = 8

    def __init__(self, argv: Sequence[str], reason: str, stderr: str = "") -> None:
        self.argv = list(argv)
        self.reason = reason
        self.stderr = stderr
        tail = stderr.strip().splitlines()[-3:]
        detail = ": " + " / ".join(tail) if tail else ""
        super().__init__(f"`{shlex.join(argv)}` {reason}{detail}")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment a child gets: a few variables of ours, plus ``extra``."""
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment.setdefault("PATH", DEFAULT_PATH)
    environment.update(extra or {})
    return environment


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    data: bytes | None = None,
    warn: Callable[[str], None] | None = None,
) -> bytes:
    """Run a program to its end and return what it printed.

    Args:
        timeout: seconds after which the program is killed.
        env: variables added to the clean environment.
        data: bytes for its standard input; none means an empty input.
        warn: gets what it said on standard error although it ended well.

    Raises:
        ProcessError: it cannot be started, ran out of time, or its exit code is not 0.
    """
    environment = clean_environment(env)
    if cwd is not None:
        environment["PWD"] = str(cwd)
    try:
        done = subprocess.run(
            list(argv),
            input=data if data is not None else b"",
            capture_output=True,
            timeout=timeout,
            cwd=cwd,
            env=environment,
            check=False,
        )
    except OSError as error:
        raise ProcessError(argv, _why_not(error, argv)) from error
    except subprocess.TimeoutExpired as error:
        raise ProcessError(argv, f"did not end within {timeout:g} s") from error
    if done.returncode != 0:
        raise ProcessError(argv, f"ended with {done.returncode}", _text(done.stderr or done.stdout))
    if warn is not None:
        warn(_text(done.stderr))
    return done.stdout


@dataclass(frozen=True)
class Job:
    """One program to run beside others; the fields are those of ``run``."""

    argv: Sequence[str]
    timeout: float
    cwd: Path
    env: Mapping[str, str]


def run_together(jobs: Sequence[Job], limit: int) -> None:
    """Run programs to their ends, at most ``limit`` at a time; what they print is not kept.

    One that fails does not end the others. Whatever ends this call ends them all.

    Raises:
        ProcessError: of the first in the order of ``jobs`` that failed, as ``run`` raises it.
    """
    waiting = list(enumerate(jobs))
    errors: dict[int, ProcessError] = {}
    with ExitStack() as stack:
        running: dict[int, _Running] = {}
        while waiting or running:
            while waiting and len(running) < limit:
                number, job = waiting.pop(0)
                try:
                    running[number] = stack.enter_context(_Running(job))
                except ProcessError as error:
                    errors[number] = error
            _wait_for_one(list(running.values()))
            for number, one in list(running.items()):
                if one.has_ended():
                    del running[number]
                    if one.error is not None:
                        errors[number] = one.error
    if errors:
        raise errors[min(errors)]


class _Running:
    """One program of ``run_together``; leaving the context kills it where it still runs."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._deadline = time.monotonic() + job.timeout
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self.error: ProcessError | None = None
        environment = clean_environment(job.env) | {"PWD": str(job.cwd)}
        try:
            self._process = subprocess.Popen(
                list(job.argv),
                stdin=DEVNULL,
                stdout=self._said,
                stderr=self._said,
                cwd=job.cwd,
                env=environment,
            )
        except OSError as error:
            self._said.close()
            raise ProcessError(job.argv, _why_not(error, job.argv)) from error
        self.descriptor = os.pidfd_open(self._process.pid)

    def __enter__(self) -> _Running:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        os.close(self.descriptor)
        self._said.close()

    @property
    def left(self) -> float:
        """Seconds that it may still run."""
        return max(0.0, self._deadline - time.monotonic())

    def has_ended(self) -> bool:
        """Say whether it is over, by itself or because its time was; ``error`` says how."""
        code = self._process.poll()
        if code is None:
            if self.left:
                return False
            self._kill()
            reason = f"did not end within {self._job.timeout:g} s"
            self.error = ProcessError(self._job.argv, reason)
        elif code != 0:
            self._said.seek(0)
            text = _text(self._said.read())
            self.error = ProcessError(self._job.argv, f"ended with {code}", text)
        return True

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _wait_for_one(running: Sequence[_Running]) -> None:
    """Wait until one of them ends, or the time of one is over."""
    if running:
        watch = select.poll()
        for one in running:
            watch.register(one.descriptor, select.POLLIN)
        watch.poll(min(one.left for one in running) * 1000 + 1)


def start(
    argv: Sequence[str],
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int | None = subprocess.PIPE,
    stderr: IO[bytes] | int | None = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
    die_with_parent: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program and return at once; the caller waits for it and judges its exit code.

    Args:
        die_with_parent: let the kernel kill it when the thread that called this ends.

    Raises:
        ProcessError: it cannot be started.
    """
    try:
        return subprocess.Popen(
            list(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=clean_environment(env),
            preexec_fn=_death_with_parent() if die_with_parent else None,
        )
    except OSError as error:
        raise ProcessError(argv, _why_not(error, argv)) from error


def _why_not(error: OSError, argv: Sequence[str]) -> str:
    if isinstance(error, FileNotFoundError) and error.filename == argv[0]:
        return "cannot be started, it is not installed"
    where = f" ({error.filename})" if error.filename not in (None, argv[0]) else ""
    return f"cannot be started: {error.strerror}{where}"


def _death_with_parent() -> Callable[[], None]:
    """Return what the child has to call: ``prctl(PR_SET_PDEATHSIG, SIGKILL)``, see prctl(2)."""
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def call() -> None:
        prctl(1, int(signal.SIGKILL))
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return call


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")
