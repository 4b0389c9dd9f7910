"""Whether this machine's hardware acceleration really runs a kernel: tried, not looked at.

``/dev/kvm`` may exist where nested virtualization is broken or forbidden.
"""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path

import initrd
from architecture import AMD64
from emulator import emulator

#: Seconds; real acceleration takes one.
_TIMEOUT = 10.0


@functools.cache
def accelerator(boot: Path, root: Path) -> str:
    """Return ``kvm`` where it has just booted a kernel, else ``tcg``; asked once per process.

    ``COMPOSEAPPS_ACCELERATOR`` decides instead, where it is set.

    Args:
        boot: directory with the device's ``vmlinuz`` and ``busybox``.
        root: the device's tree, for the kernel's modules.
    """
    wanted = os.environ.get("COMPOSEAPPS_ACCELERATOR", "")
    if wanted:
        return wanted
    return "kvm" if os.path.exists("/dev/kvm") and boots("kvm", boot, root) else "tcg"


def boots(name: str, boot: Path, root: Path) -> bool:
    """Say whether QEMU with this accelerator brings a kernel to its first program."""
    with tempfile.NamedTemporaryFile(prefix="composeapps-probe-") as image:
        image.write(initrd.build(boot, root))
        image.flush()
        command = [
            *emulator(AMD64),
            "-M",
            f"q35,accel={name}",
            "-nodefaults",
            "-display",
            "none",
        ]
        command += ["-no-user-config", "-m", "256", "-kernel", str(boot / "vmlinuz")]
        command += ["-initrd", image.name, "-append", "console=ttyS0 quiet composeapps.probe"]
        try:
            done = subprocess.run(
                [*command, "-serial", "stdio", "-no-reboot"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return b"kernel booted" in done.stdout
