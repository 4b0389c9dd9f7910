"""A power cut before any one step that a program takes on a directory, in this process.

A file system may lose, at a cut, the bytes of a file that was not fsynced and a rename whose
directory was not fsynced (ext4, data=writeback; POSIX promises no more). Both can be tried.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class PowerCutError(BaseException):
    """Nothing runs after it: no handler of ours catches it."""


class Disk:
    """Counts the steps that change a directory, cuts before one of them, and then forgets."""

    def __init__(self, directory: Path, cut_at: int = -1) -> None:
        self.directory = directory
        self.cut_at = cut_at
        self.steps = 0
        self._unsynced: set[Path] = set()
        #: Renames whose directory was not fsynced: what was there before (or None).
        self._renames: list[tuple[Path, Path, Path | None]] = []

    def step(self) -> None:
        """One more change is about to happen."""
        if self.steps == self.cut_at:
            raise PowerCutError
        self.steps += 1

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        """Come between the program and the operating system."""
        for name in ("mkdir", "symlink", "unlink", "rmdir", "open", "fsync", "replace"):
            patch.setattr(os, name, getattr(self, f"_{name}")(getattr(os, name)))
        patch.setattr(Path, "write_bytes", self._write_bytes(Path.write_bytes))

    def _ours(self, path: Any) -> bool:
        return isinstance(path, (str, Path)) and Path(path).is_relative_to(self.directory)

    def _mkdir(self, real: Callable[..., None]) -> Callable[..., None]:
        def mkdir(path: Any, *args: Any, **more: Any) -> None:
            if self._ours(path):
                self.step()
            real(path, *args, **more)

        return mkdir

    def _symlink(self, real: Callable[..., None]) -> Callable[..., None]:
        def symlink(target: Any, path: Any, *args: Any, **more: Any) -> None:
            if self._ours(path):
                self.step()
            real(target, path, *args, **more)

        return symlink

    def _unlink(self, real: Callable[..., None]) -> Callable[..., None]:
        return self._mkdir(real)

    def _rmdir(self, real: Callable[..., None]) -> Callable[..., None]:
        return self._mkdir(real)

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        def open_(path: Any, flags: int, *args: Any, **more: Any) -> int:
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if self._ours(path) and writes:
                self.step()
                self._unsynced.add(Path(path))
            return real(path, flags, *args, **more)

        return open_

    def _write_bytes(self, real: Callable[[Path, bytes], int]) -> Callable[[Path, bytes], int]:
        def write_bytes(path: Path, data: bytes) -> int:
            if self._ours(path):
                self.step()
                self._unsynced.add(path)
            return real(path, data)

        return write_bytes

    def _fsync(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if self._ours(path):
                self.step()
                self._unsynced.discard(path)
                self._renames = [one for one in self._renames if path not in one[1].parents]
            # Not to the medium: the test does not need it, and it is slow.

        return fsync

    def _replace(self, real: Callable[..., None]) -> Callable[..., None]:
        def replace(old: Any, new: Any) -> None:
            if not self._ours(new):
                real(old, new)
                return
            self.step()
            backup = None
            if os.path.lexists(new):
                backup = self.directory.parent / f"backup-{self.steps}"
                shutil.copytree(new, backup) if Path(new).is_dir() and not Path(
                    new
                ).is_symlink() else shutil.copy2(new, backup, follow_symlinks=False)
            real(old, new)
            moved = {path for path in self._unsynced if path.is_relative_to(old)}
            self._unsynced -= moved
            self._unsynced |= {Path(new) / path.relative_to(old) for path in moved}
            self._renames.append((Path(old), Path(new), backup))

        return replace

    def lose(self, renames: bool) -> None:
        """Lose what was not synced."""
        for path in self._unsynced:
            if path.is_file() and not path.is_symlink():
                os.truncate(path, path.stat().st_size // 2)
        for old, new, backup in reversed(self._renames) if renames else ():
            if os.path.lexists(new) and old.parent.is_dir() and not os.path.lexists(old):
                os.rename(new, old)
                if backup is not None:
                    os.rename(backup, new)
