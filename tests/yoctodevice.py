"""The device that bitbake built, for the tests in a virtual machine: ``IMAGE=yocto``.

``make yocto`` leaves a directory, which ``YOCTO_DEVICE`` names: ``root.erofs`` as bitbake made it,
``boot`` and ``root`` (kernel, its modules) for the initramfs, and the maker's ``world`` whose
release is in the image. Nothing is added to the root image. What a test needs besides, such as
settings of its own, is mounted over it from ``/run``, where the initramfs brings it.
"""

from __future__ import annotations

import os
from pathlib import Path

import image
from disk import Disk

#: Whether the tests are asked of the Yocto-built image.
ASKED = os.environ.get("IMAGE") == "yocto"
DIRECTORY = Path(os.environ.get("YOCTO_DEVICE", "/var/tmp/composeapps-yocto/device-wrynose"))
_NETWORK = "systemd/network/10-ethernet.network"
_DROP_INS = "etc-composeapps-conf.d.mount"
_MOUNT = """\
[Unit]
Description=Settings of the test

[Mount]
What=/run/composeapps-test/conf.d
Where=/etc/composeapps/conf.d
Type=none
Options=bind,ro
"""


def directory() -> Path:
    """Return the directory that ``make yocto`` left.

    Raises:
        FileNotFoundError: there is none.
    """
    if not (DIRECTORY / "root.erofs").exists():
        raise FileNotFoundError(f"{DIRECTORY} holds no device: run make yocto, or set YOCTO_DEVICE")
    return DIRECTORY


def disk(path: Path, size: int) -> Disk:
    """Write a disk of ``size`` bytes with the Yocto-built root image in its first slot."""
    image.write_disk(directory() / "root.erofs", path, size)
    return Disk(path)


def run_files(settings: str) -> dict[str, bytes | str]:
    """Return what gives the image the network that tests have, and settings over its own."""
    return {
        _NETWORK: image.FILES[f"etc/{_NETWORK}"],
        "composeapps-test/conf.d/50-test.toml": settings,
        f"systemd/system/{_DROP_INS}": _MOUNT,
        f"systemd/system/local-fs.target.wants/{_DROP_INS}": f"->../{_DROP_INS}",
    }
