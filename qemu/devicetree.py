"""The device image's file tree: ``tree.PACKAGES`` and what a device that boots needs besides.

Made once by mmdebstrap and cached; no configuration, no apps, no agent: ``image.py`` adds those.
``python3 qemu/devicetree.py`` prints the directory. Needs root and mmdebstrap.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import architecture as architectures
import tree
from architecture import AMD64, Architecture, run_programs_of

SUITE = "trixie"
#: Time (seconds since 1970) of everything that has no time of its own.
EPOCH = 1_700_000_000
#: Why each is in, besides the kernel: the first process and its devices; Docker makes its
#: containers' cgroups through systemd, over D-Bus; sfdisk, which grows the data partition.
ADDED = "systemd systemd-sysv udev dbus fdisk".split()
#: Goes to the initramfs, not to the device's root.
BOOT_PACKAGES = ["busybox-static"]
#: Only publishing reads YAML.
LEFT_OUT = {"python3-yaml"}
#: Removed at the end: nothing is installed on a device, and nothing else there needs them.
REMOVED = (
    "apt libapt-pkg7.0 gpgv debian-archive-keyring dpkg perl-base adduser debconf passwd "
    "busybox-static klibc-utils initramfs-tools initramfs-tools-core initramfs-tools-bin cpio "
    "linux-base ncurses-bin mawk sysvinit-utils init-system-helpers diffutils"
).split()
#: Removed too, by path: documentation, other locales, a data base of devices nobody plugs in.
REMOVED_PATHS = (
    "boot/* dev/* var/* tmp/* run/* usr/lib/udev/hwdb.* usr/lib/*-linux-gnu/gconv "
    "usr/lib/*-linux-gnu/perl* usr/share/doc usr/share/man usr/share/locale usr/share/info "
    "usr/share/bash-completion usr/share/zsh usr/share/fish usr/share/lintian usr/share/bug "
    "usr/share/perl5 usr/share/debconf usr/share/doc-base usr/share/menu usr/share/pixmaps "
    "usr/share/common-licenses usr/share/zoneinfo usr/share/mime usr/share/applications "
    "usr/lib/klibc* usr/lib/dracut usr/lib/kernel usr/lib/pcrlock.d usr/lib/valgrind "
    "etc/apt etc/dpkg etc/cron* etc/init.d etc/rc?.d etc/logrotate.d etc/initramfs-tools "
    "etc/kernel etc/*- etc/.pwd.lock etc/ssh etc/update-motd.d etc/systemd/system/* "
    "usr/share/initramfs-tools usr/share/dict usr/lib/tmpfiles.d/20-systemd-ssh-generator.conf"
).split()
#: Of the kernel's modules these are kept: what containers, their networks and sealed layers use,
#: and the drivers of the machine that QEMU is. Fewer modules, fewer that udev loads at every boot.
KEPT_MODULES = (
    "arch/x86/crypto arch/arm64/crypto crypto lib net/802 net/8021q net/bridge net/core net/ipv4 "
    "net/ipv6 net/llc net/netfilter net/netlink net/packet net/sched net/unix net/xfrm fs/autofs "
    "fs/configfs fs/erofs fs/fuse fs/overlayfs fs/netfs drivers/block/loop "
    "drivers/block/virtio_blk drivers/char/hw_random drivers/md/dm-mod drivers/md/dm-verity "
    "drivers/md/dm-bufio drivers/net/dummy drivers/net/ipvlan drivers/net/macvlan "
    "drivers/net/net_failover drivers/net/tun drivers/net/veth drivers/net/virtio_net "
    "drivers/net/vxlan drivers/virtio drivers/watchdog/i6300esb drivers/watchdog/softdog "
    "drivers/watchdog/watchdog"
).split()
#: Set iteration order goes into byte code; byte code times into packages' scripts.
_ENVIRONMENT = {"SOURCE_DATE_EPOCH": str(EPOCH), "PYTHONHASHSEED": "0"}


def device_tree(suite: str = SUITE, architecture: Architecture = AMD64) -> Path:
    """Return the directory that holds ``root`` and ``boot`` (``vmlinuz``, ``busybox``).

    Raises:
        RuntimeError: programs of this architecture cannot be run here; says what to do.
        subprocess.CalledProcessError: mmdebstrap or pip failed; its output is on stderr.
    """
    sources = [Path(__file__), Path(tree.__file__), Path(architectures.__file__)]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources) + suite.encode())
    name = f"device-{suite}-{architecture.name}-{key.hexdigest()[:12]}"
    return tree.cached(name, "the device's tree", lambda place: make(suite, place, architecture))


def make(suite: str, directory: Path, architecture: Architecture = AMD64) -> None:
    """Make the tree anew in a directory that does not exist yet."""
    run_programs_of(architecture)
    directory.mkdir(parents=True)
    root = directory / "root"
    packages = [name for name in tree.PACKAGES if name not in LEFT_OUT]
    packages += [architecture.kernel, *ADDED, *BOOT_PACKAGES]
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in tree.EXCLUDED]
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=essential", "--mode=root", *options]
        + [f"--architectures={architecture.name}", f"--include={','.join(packages)}"]
        + [suite, str(root)],
        check=True,
        stdout=sys.stderr,
        env={**os.environ, **_ENVIRONMENT},
    )
    tree.install_wheels(root)
    _take_boot_files(root, directory / "boot")
    _unpack_modules(root)
    _note_packages(root)
    _remove(root)
    _compile(root)
    for name in tree.MOUNT_POINTS:
        if not name.startswith("var/"):
            (root / name).mkdir(parents=True, exist_ok=True)


def _take_boot_files(root: Path, boot: Path) -> None:
    boot.mkdir()
    shutil.copy(next((root / "boot").glob("vmlinuz-*")), boot / "vmlinuz")
    shutil.copy(root / "usr/bin/busybox", boot / "busybox")


def _unpack_modules(root: Path) -> None:
    """Unpack what is kept: the root image is compressed itself, and xz is slow in an emulator."""
    version = next((root / "usr/lib/modules").iterdir())
    for path in sorted(version.rglob("*.ko.xz")):
        name = f"{path.relative_to(version / 'kernel')}".removesuffix(".ko.xz")
        if any(name == kept or name.startswith(f"{kept}/") for kept in KEPT_MODULES):
            path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        path.unlink()
    subprocess.run(["chroot", str(root), "depmod", version.name], check=True)


def _note_packages(root: Path) -> None:
    """Write down what the image is made of; its package data base goes."""
    said = subprocess.run(
        ["chroot", str(root), "dpkg-query", "-W"], check=True, capture_output=True
    )
    place = root / "usr/share/composeapps"
    place.mkdir(parents=True, exist_ok=True)
    (place / "packages").write_bytes(said.stdout)


def _remove(root: Path) -> None:
    for package in REMOVED:
        for listed in (root / "var/lib/dpkg/info").glob(f"{package}[.:]*list"):
            _unlink(root, listed.read_text().splitlines())
    for pattern in REMOVED_PATHS:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _unlink(root: Path, names: Iterable[str]) -> None:
    for name in names:
        path = root / name.lstrip("/")
        if path.is_symlink() or path.is_file():
            path.unlink()


def _compile(root: Path) -> None:
    """Compile all of Python's files so that no time decides whether byte code is used."""
    for path in root.glob("usr/**/__pycache__"):
        shutil.rmtree(path)
    compile_tree(root, "/usr/lib", "/usr/local/lib")


def compile_tree(root: Path, *directories: str) -> None:
    """Write byte code that is used unchecked, whatever times an image gives its files."""
    program = next((root / "usr/bin").glob("python3.[0-9]*")).name
    command = ["chroot", str(root), program, "-s", "-m", "compileall", "-q", "-f"]
    command += ["--invalidation-mode", "unchecked-hash", *directories]
    subprocess.run(command, check=True, env={"PATH": "/usr/sbin:/usr/bin", **_ENVIRONMENT})


if __name__ == "__main__":
    print(device_tree(sys.argv[1] if len(sys.argv) > 1 else SUITE))
