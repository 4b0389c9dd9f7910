"""The edge of a command: its standard streams; every error made one sentence and an exit code."""

from __future__ import annotations

import argparse
import errno
import io
import json
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn, TextIO

from composeapps.errors import ComposeAppsError, SpaceError, StateError, UsageError

#: Exit code of a run that SIGINT or SIGTERM ended (shells use 128 + signal number).
INTERRUPTED = 130
#: Does a command for its arguments and returns its exit code.
Work = Callable[[Sequence[str]], int]
log = logging.getLogger(__name__)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        """Refuse a command line; raises UsageError."""
        raise UsageError(f"{message}: see {self.prog} --help")


def _explained(error: OSError) -> ComposeAppsError:
    """Return what an error of the operating system means that nothing below has explained."""
    text = f"{error.filename or 'a file'}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(f"{text}: free space on its file system, or run composeapps prune")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StateError(f"{text}: run it as root")
    return StateError(f"{text}: is its file system there, sound and writable?")


@dataclass(frozen=True)
class Words:
    """How a command says what no code below it has explained."""

    #: What a person can expect after a signal has ended it.
    interrupted: str = "the next run goes on from here"
    explain: Callable[[OSError], ComposeAppsError] = _explained


def run(program: str, arguments: Sequence[str], work: Work, words: Words = Words()) -> int:
    """Do a command's work and return its exit code; only defects leave it as an exception."""
    _open_standard_streams()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _told(program, arguments, work, words)
    finally:
        _let_go(sys.stdout)


def _work_and_write(work: Work, arguments: Sequence[str]) -> int:
    """Do a command's work and have its output written; raises OSError where it cannot be."""
    try:
        code = work(arguments)
    except SystemExit as end:  # argparse, after --help and --version
        code = int(end.code or 0)
    sys.stdout.flush()
    return code


def _let_go(stream: TextIO) -> None:
    """Write what a stream still holds, or forget it: from Python 3.13 on it would fail again."""
    try:
        stream.flush()
    except OSError:
        _forget(stream)


def _told(program: str, arguments: Sequence[str], work: Work, words: Words) -> int:
    try:
        return _work_and_write(work, arguments)
    except ComposeAppsError as error:
        return _tell(program, error, as_json="--json" in arguments)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone(sys.stdout):
            _forget(sys.stdout)  # nobody is left to tell
            return 0
        log.debug("where it happened", exc_info=True)
        return _tell(program, words.explain(error), as_json="--json" in arguments)
    except KeyboardInterrupt:
        _say(sys.stderr, f"{program}: interrupted; {words.interrupted}")
        return INTERRUPTED


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _tell(program: str, error: ComposeAppsError, *, as_json: bool) -> int:
    if as_json:
        value = {"error": str(error), "kind": type(error).__name__, "code": error.exit_code}
        _say(sys.stdout, json.dumps(value))
    _say(sys.stderr, f"{program}: {error}")
    return error.exit_code


def _say(stream: TextIO, text: str) -> None:
    try:
        print(text, file=stream, flush=True)
    except OSError:  # there is no other place to tell it
        _forget(stream)


def _open_standard_streams() -> None:
    """Give the three standard streams something, or the next file opened would be one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name need not be UTF-8.
        sys.stdout.reconfigure(errors="backslashreplace")


def _reader_is_gone(stream: TextIO) -> bool:
    watch = select.poll()
    watch.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in watch.poll(0))


def _forget(stream: TextIO) -> None:
    """Let what is left of a stream go nowhere, so that closing it is no error either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
