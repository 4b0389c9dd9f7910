"""Runs ``mkfs.erofs``: one EROFS file from a tar stream, or an error and no file."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO

from composeapps import process
from composeapps.errors import SettingsError, SpaceError
from composeapps.oci import hex_of

TOOL = "mkfs.erofs"
#: 1.7 has neither --sort nor --mkfs-time and loses the times; 1.8.2 to 1.8.4 cut long names.
TOOL_VERSION = (1, 8, 5)
#: Seconds until it has said its version; it does nothing else then.
TOOL_TIMEOUT = 60.0
#: Bytes; mkfs.erofs before 1.9 does not notice every write that failed for want of room. Less
#: room than this, at any moment, is an error.
ROOM = 16 * 1024 * 1024
ROOM_EVERY = 8 * 1024 * 1024
#: What its error messages begin with (erofs-utils, include/erofs/print.h).
_ERROR = "<E>"


@lru_cache(maxsize=1)
def check_tool() -> str:
    """Return the version of ``mkfs.erofs``.

    Raises:
        SettingsError: it is missing or too old.
    """
    wanted = f"install erofs-utils {'.'.join(str(number) for number in TOOL_VERSION)} or newer"
    try:
        output = process.run([TOOL, "-V"], timeout=TOOL_TIMEOUT).decode("utf-8", "replace")
    except process.ProcessError as error:
        if error.stderr:  # it runs, and is so old that it does not know -V
            raise SettingsError(f"{TOOL} is too old: {wanted}") from error
        raise SettingsError(f"{TOOL} {error.reason}: {wanted}") from error
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", output)
    numbers = tuple(int(number or 0) for number in found.groups()) if found else (0,)
    if found is None or numbers < TOOL_VERSION:
        raise SettingsError(f"{TOOL} is too old ({output.strip()[:60]}): {wanted}")
    return found.group()


def command(diff_id: str, output: Path, compression: str) -> list[str]:
    """Return the command line; what it makes depends on nothing else but the stream."""
    argv = [TOOL, "--quiet", "--tar=f", "--sort=none", "-T0", "--mkfs-time"]
    argv += ["-U", str(uuid.UUID(hex=hex_of(diff_id)[:32]))]
    # Without compression, data in blocks of its own is written once; with it, that would only
    # cost a block for every small file. No larger clusters, tails, fragments: docs/adr/0012.
    argv.append("-Enoinline_data" if compression == "none" else f"-z{compression}")
    return [*argv, str(output)]


class Tool:
    """One run of ``mkfs.erofs``; a context manager that leaves a finished file or none.

    Raises:
        SpaceError: (any method) the file system is full, or nearly.
        ProcessError: (any method) it cannot be started, or failed.
    """

    def __init__(self, diff_id: str, output: Path, compression: str) -> None:
        check_room(output)
        self._output = output
        self._argv = command(diff_id, output, compression)
        self._since = 0
        self._finished = False
        with ExitStack() as stack:
            self._messages: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            self._process = process.start(
                self._argv,
                stdin=process.PIPE,
                stdout=process.DEVNULL,
                stderr=self._messages,
                # mkfs.erofs before 1.9 runs for ever where its input ends too early.
                die_with_parent=True,
                env={"TMPDIR": str(output.parent)},
            )
            stack.pop_all()
        assert self._process.stdin is not None
        self._pipe: IO[bytes] = self._process.stdin

    def __enter__(self) -> Tool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        with suppress(BrokenPipeError):
            self._pipe.close()
        self._messages.close()
        if not self._finished:
            with suppress(FileNotFoundError):
                self._output.unlink()

    def write(self, data: bytes) -> None:
        """Hand it some bytes of the stream."""
        try:
            self._pipe.write(data)
        except BrokenPipeError:
            self._fail()
        self._since += len(data)
        if self._since > ROOM_EVERY:
            self._since = 0
            check_room(self._output)

    def finish(self) -> None:
        """End the stream and wait for the file; it is complete when this returns."""
        with suppress(BrokenPipeError):  # its exit code says more
            self._pipe.close()
        # mkfs.erofs before 1.9 prints writes that failed and may still end with 0.
        if self._process.wait() != 0 or _ERROR in self._said():
            self._fail()
        check_room(self._output)
        self._finished = True

    def _fail(self) -> None:
        code = self._process.wait()
        check_room(self._output)
        said = self._said()
        if "No space left" in said or "quota exceeded" in said:
            raise SpaceError(f"there is no room for a sealed layer in {self._output.parent}")
        raise process.ProcessError(self._argv, f"ended with {code}", said)

    def _said(self) -> str:
        self._messages.seek(0)
        return self._messages.read(64 * 1024).decode("utf-8", "replace")


def check_room(output: Path, needed: int = 0) -> None:
    """Raise SpaceError where a file system has too little room to go on writing there."""
    status = os.statvfs(output.parent)
    free = status.f_bavail * status.f_frsize
    if free < needed + ROOM:
        raise SpaceError(
            f"sealing needs {needed + ROOM} bytes in {output.parent}, and {free} are free"
        )
