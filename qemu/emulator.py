"""QEMU, the same on every machine: Debian trixie's, unpacked and run from where it lies.

ADR 15 says why it is not the one that the machine has.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import tree
from architecture import Architecture

SUITE = "trixie"


def emulator(architecture: Architecture) -> list[str]:
    """Return the words that a command line of QEMU for this architecture begins with.

    Raises:
        subprocess.CalledProcessError: mmdebstrap failed; its output is on stderr.
    """
    package = architecture.emulator
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    root = tree.cached(
        f"{package}-{SUITE}-{key}", "the emulator", lambda place: _make(package, place)
    )
    # Its own C library, and so that one's loader: the machine's may be older.
    (loader,) = (root / "usr").glob("lib*/ld-linux*.so.?")
    (libraries,) = (root / "usr/lib").glob("*-linux-gnu")
    program = root / "usr/bin" / f"qemu-system-{architecture.machine}"
    words = [loader, "--library-path", libraries, program]
    for name in ("qemu", "seabios"):
        words += ["-L", root / "usr/share" / name]
    return [str(word) for word in words]


def _make(package: str, directory: Path) -> None:
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in tree.EXCLUDED]
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=extract", *options, f"--include={package}"]
        + [SUITE, str(directory)],
        check=True,
        stdout=sys.stderr,
    )
