"""Mounting sealed layers: from the file where the kernel can (Linux 6.12), else by loop."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from composeapps.errors import EngineError, IntegrityError, UnsupportedError
from composeapps.process import ProcessError, run
from composeapps.store import SealedLayer

# <sys/mount.h>; the container's overlay has flags of its own, these only bar the way around it.
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MNT_DETACH = 2
_FLAGS = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
#: Seconds; mount(8) with a loop device does no work that takes longer on a live medium.
_LOOP_TIMEOUT = 60.0
#: What the kernel knows, once mount(8) has made it load what it has.
FILESYSTEMS = Path("/proc/filesystems")
_libc = ctypes.CDLL(None, use_errno=True)


def mount_layer(layer: SealedLayer, directory: Path, way: str = "auto") -> Path:
    """Mount a sealed layer below ``directory`` under its own name, and return the mount point.

    A layer that is mounted there already is left as it is.

    Args:
        way: ``file``, ``loop``, or ``auto`` for the first that the kernel has.

    Raises:
        IntegrityError: the file is not an EROFS image, or cannot be read.
        UnsupportedError: the kernel has no EROFS, or its compression, or no way to mount a file.
    """
    target = directory / layer.name
    if os.path.ismount(target):
        return target
    target.mkdir(parents=True, exist_ok=True)
    code = errno.ENOTBLK if way == "loop" else _mount(layer.path, target)
    if code == errno.ENOTBLK and way != "file":
        _mount_by_loop(layer.path, target)
    elif code:
        raise _explain(code, layer.path)
    return target


def unmount(target: Path) -> None:
    """Unmount one sealed layer and remove its mount point; running overlays keep their own copy."""
    detach(target)
    if target.is_dir():
        target.rmdir()


def detach(target: Path) -> None:
    """Unmount whatever is mounted at a path, busy or not; raises EngineError."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH) != 0:
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOENT):  # not a mount point, or not there
            raise EngineError(f"cannot unmount {target}: {os.strerror(code)}")


def mounted(directory: Path) -> set[str]:
    """Return the names of the sealed layers that are mounted below ``directory``."""
    prefix = f"{directory}/"
    names = set()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            point = line.split(" ")[4]
            if point.startswith(prefix):
                names.add(point.removeprefix(prefix))
    return names


def _mount(file: Path, target: Path) -> int:
    arguments = [os.fsencode(file), os.fsencode(target), b"erofs"]
    if _libc.mount(*arguments, ctypes.c_ulong(_FLAGS), None) == 0:
        return 0
    return ctypes.get_errno()


def _mount_by_loop(file: Path, target: Path) -> None:
    options = "loop,ro,nosuid,nodev,noexec"
    try:
        run(["mount", "-t", "erofs", "-o", options, str(file), str(target)], timeout=_LOOP_TIMEOUT)
    except ProcessError as error:
        if not _kernel_has_erofs():
            raise _explain(errno.ENODEV, file) from error
        if "loop device" in str(error):
            raise UnsupportedError(
                f"there is no loop device to mount sealed layers by: {error}; the kernel needs "
                "CONFIG_BLK_DEV_LOOP, or Linux 6.12 and CONFIG_EROFS_FS_BACKED_BY_FILE"
            ) from error
        raise IntegrityError(f"sealed layer {file.name} cannot be mounted: {error}") from error


def _kernel_has_erofs() -> bool:
    return "erofs" in FILESYSTEMS.read_text("ascii").split()


def _explain(code: int, file: Path) -> EngineError | IntegrityError:
    if code == errno.ENOTBLK:
        return UnsupportedError(
            "the kernel cannot mount EROFS from a file: it needs Linux 6.12 and "
            "CONFIG_EROFS_FS_BACKED_BY_FILE, or set engine.mount to auto"
        )
    if code == errno.ENODEV:
        return UnsupportedError("the kernel has no EROFS: it needs CONFIG_EROFS_FS and _FS_ZIP")
    if code == errno.EOPNOTSUPP:
        return UnsupportedError(
            "the kernel cannot read this EROFS compression: it needs CONFIG_EROFS_FS_ZIP, or set "
            "seal.compression"
        )
    if code in (errno.EPERM, errno.EACCES):
        return UnsupportedError("mounting is not permitted: run composeapps as root")
    return IntegrityError(f"sealed layer {file.name} cannot be mounted: {os.strerror(code)}")
