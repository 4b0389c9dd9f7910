"""The device's file tree: Debian packages by mmdebstrap, made once and cached by content.

The engine testbed runs in it and the device image is made of it, so that what is tested is what
is shipped. ``python3 qemu/tree.py [trixie|sid]`` prints the directory. Needs root and mmdebstrap.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
#: Why each is in: the engine and Compose; sealing; the agent's interpreter and libraries; network
#: and file system programs that the engine, the mounts and a person at the console need.
PACKAGES = (
    "docker.io containerd runc docker-compose iptables "
    "erofs-utils e2fsprogs mount util-linux "
    "python3-minimal python3-docker python3-cryptography python3-yaml python3-zstandard "
    "ca-certificates iproute2 kmod procps"
).split()
#: Only for tests: contents of the demo images come from here too.
TEST_PACKAGES = "busybox-static strace".split()
#: Newer than Debian's; pure Python, installed by pip for the tree's interpreter.
WHEELS = ("tuf==7.0.1", "securesystemslib==1.6.0")
EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
)
#: Empty directories that a read-only root needs to mount over.
MOUNT_POINTS = (
    "etc/docker",
    "etc/composeapps",
    "mnt/data",
    "mnt/old",
    "usr/share/composeapps",
    "var/lib/composeapps",
    "var/lib/containerd",
    "var/lib/docker",
)


def cache_directory() -> Path:
    """Return where trees and images are cached, made: ``$COMPOSEAPPS_CACHE`` or ``.cache``."""
    place = Path(os.environ.get("COMPOSEAPPS_CACHE", str(REPOSITORY / ".cache")))
    place.mkdir(parents=True, exist_ok=True)
    return place


def tree(suite: str = "trixie") -> Path:
    """Return the directory of a suite's tree, made if it is not there yet.

    Raises:
        subprocess.CalledProcessError: mmdebstrap or pip failed; its output is on stderr.
    """
    key = hashlib.sha256(Path(__file__).read_bytes() + suite.encode()).hexdigest()[:12]
    return cached(f"tree-{suite}-{key}", f"the {suite} tree", lambda place: _make(suite, place))


def cached(name: str, what: str, make: Callable[[Path], None]) -> Path:
    """Return the directory of this name in the cache; where it is not there, have it made.

    Args:
        what: is told to the person who waits for it.
        make: makes it in a directory that does not exist yet; half of it is never seen.
    """
    final = cache_directory() / name
    with (final.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.exists():
            print(f"making {what} (about a minute) ...", file=sys.stderr, flush=True)
            temporary = final.with_name(f".tmp-{name}")
            remove(temporary)
            make(temporary)
            os.replace(temporary, final)
    return final


def _make(suite: str, directory: Path) -> None:
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
    if suite == "sid":
        options.append('--aptopt=Acquire::Check-Valid-Until "false"')
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", *options]
        + [f"--include={','.join([*PACKAGES, *TEST_PACKAGES])}", suite, str(directory)],
        check=True,
        stdout=sys.stderr,
    )
    for name in MOUNT_POINTS:
        (directory / name).mkdir(parents=True, exist_ok=True)
    install_wheels(directory)


def remove(directory: Path) -> None:
    """Remove a tree, and not what a mmdebstrap that was killed left mounted in it."""
    subprocess.run(["rm", "-rf", "--one-file-system", str(directory)], check=True)


def install_wheels(root: Path) -> None:
    """Put the wheels into a tree, and the commands; the package itself is added by who uses it."""
    version = next((root / "usr/lib").glob("python3.*")).name
    site = root / "usr/local/lib" / version / "dist-packages"
    (site / "composeapps").mkdir(parents=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(site),
        ]
        + [
            "--only-binary=:all:",
            f"--python-version={version.removeprefix('python')}",
            *WHEELS,
        ],
        check=True,
        stdout=sys.stderr,
    )
    for program, module in (
        ("composeapps", "composeapps.cli"),
        ("composeapps-publish", "composeapps.publish.cli"),
    ):
        script = root / "usr/local/bin" / program
        script.write_text(f'#!/bin/sh\nexec /usr/bin/python3 -m {module} "$@"\n')
        script.chmod(0o755)


if __name__ == "__main__":
    print(tree(*sys.argv[1:2]))
