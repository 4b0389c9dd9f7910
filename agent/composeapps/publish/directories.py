"""Directories that ``composeapps-publish`` writes: new as a whole, or added to by one at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from composeapps import durable
from composeapps.errors import BusyError, ConfigError, UsageError


@contextmanager
def new_output(output: Path, mode: int = 0o755) -> Iterator[Path]:
    """Give a directory to fill; it appears as ``output`` when all is done, else nothing is left.

    Raises:
        UsageError: there is something under that name already.
        ConfigError: there is no directory to make it in.
    """
    if output.exists():
        raise UsageError(f"{output} exists: name another directory, or remove it first")
    if not output.parent.is_dir():
        raise ConfigError(f"{output.parent} is not a directory")
    with durable.new_directory(output, mode) as temporary:
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary)
            raise


@contextmanager
def exclusive(directory: Path, *cleared: Path) -> Iterator[None]:
    """Keep others out of a directory, and clear what an interrupted one left half written.

    Args:
        cleared: the directories below which temporary files may lie.

    Raises:
        BusyError: another process has it.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"another composeapps-publish works on {directory}: wait for it"
            ) from error
        for path in (directory, *cleared):
            durable.remove_temporaries(path)
        yield
    finally:
        os.close(descriptor)
