"""What differs between the architectures that a virtual device can have."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_BINFMT = Path("/proc/sys/fs/binfmt_misc")


@dataclass(frozen=True)
class Architecture:
    """One architecture, by its names."""

    #: Debian's and OCI's name; these two agree here.
    name: str
    #: The kernel's name (``uname -m``), which is QEMU's.
    machine: str
    #: QEMU's machine, and a processor of it for an emulator: each feature that an old one has not
    #: is a module that udev does not load, or work that is not emulated.
    board: str
    processor: str
    console: str
    #: Debian's package of an emulator.
    emulator: str

    @property
    def kernel(self) -> str:
        """Debian's package of a kernel whose modules are few and know virtio."""
        return f"linux-image-cloud-{self.name}"


AMD64 = Architecture(
    "amd64",
    "x86_64",
    "q35,sata=off,usb=off,smbus=off",
    "Nehalem,+rdrand",
    "ttyS0",
    "qemu-system-x86",
)
ARM64 = Architecture("arm64", "aarch64", "virt", "cortex-a57", "ttyAMA0", "qemu-system-arm")
ARCHITECTURES = {one.name: one for one in (AMD64, ARM64)}
NATIVE = ARM64 if os.uname().machine == ARM64.machine else AMD64


def run_programs_of(architecture: Architecture) -> None:
    """Have this kernel run an architecture's programs, by QEMU where they are not its own.

    A machine without systemd has not done what Debian's package asks for.

    Raises:
        RuntimeError: the package is not there, or the kernel cannot.
    """
    if architecture == NATIVE:
        return
    entry = f"qemu-{architecture.machine}"
    if not (_BINFMT / "register").exists():
        raise RuntimeError(
            f"programs of {architecture.name} cannot be run: "
            f"mount -t binfmt_misc binfmt_misc {_BINFMT}"
        )
    if (_BINFMT / entry).exists():
        return
    wanted = Path(f"/usr/lib/binfmt.d/{entry}.conf")
    if not wanted.exists():
        raise RuntimeError(
            f"programs of {architecture.name} cannot be run: install qemu-user-static, arch-test"
        )
    with contextlib.suppress(FileExistsError):  # somebody else was faster
        (_BINFMT / "register").write_bytes(wanted.read_bytes().strip())
