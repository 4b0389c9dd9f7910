"""The device image: a read-only root, made of the device's tree, and one disk with two slots.

What a maker brings (factory store, trusted root, settings) goes in as ``Inputs``. Nothing is
mounted: ``mkfs.erofs`` reads a directory, ``sfdisk`` and ``mkfs.ext4`` write to a file. The same
inputs give the same root image, byte for byte.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import devicetree
import tree

HERE = Path(__file__).resolve().parent
AGENT = HERE.parent / "agent"
MIB = 1024**2
#: Partitions, by number: the two root slots and the data.
ROOT_A, ROOT_B, DATA = 1, 2, 3
#: Bytes before the first partition, and after the last for the second partition table.
EDGE = MIB
#: Bytes of the data partition in the image; the first boot grows it to the disk's end.
DATA_SIZE = 256 * MIB
#: The address of this machine's loopback as the guest sees it; the whole network there is.
HOST_ADDRESS = "10.0.2.2"
_KEPT_IMAGES = 8
_UUID = "f0d8a2c6-5b0e-4b6e-9d65-6f6d706f7365"
#: What the image brings besides agent/system, by path.
FILES = {
    "etc/fstab": """\
PARTLABEL=data /var ext4 noatime,resuid=2147483646,\
x-systemd.device-timeout=10min,x-systemd.requires=composeapps-data.service 0 0
tmpfs /tmp tmpfs mode=1777,nosuid,nodev,size=20% 0 0
"""
    + "".join(
        # Mounted only while somebody looks: a slot may be empty, or be written to.
        f"PARTLABEL=root-{slot} /run/slots/{slot} erofs ro,noauto,nofail,x-systemd.automount,"
        "x-systemd.device-timeout=10s,x-systemd.idle-timeout=10s 0 0\n"
        for slot in "ab"
    ),
    "etc/composeapps/conf.d/slots.toml": """\
[paths]
other_factories = ["/run/slots/*/usr/share/composeapps/factory"]
""",
    "etc/hostname": "device\n",
    "etc/hosts": "127.0.0.1 localhost device\n::1 localhost device\n",
    # systemd shows a transient one over it; composeapps-machine-id keeps the first.
    "etc/machine-id": "",
    # No resolver: addresses of servers are numbers here.
    "etc/resolv.conf": f"nameserver {HOST_ADDRESS}\n",
    # No DHCP: its client would listen.
    "etc/systemd/network/10-ethernet.network": """\
[Match]
Type=ether
Name=e*

[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
LinkLocalAddressing=no
IPv6AcceptRA=no
LLMNR=no
""",
    # Nothing else is enabled, so that all that runs is listed here and in agent/system.
    "usr/lib/systemd/system-preset/60-device.preset": """\
enable systemd-networkd.service
disable *
""",
}
#: Units of systemd that look for work a read-only root does not have.
_MASKED = (
    "ldconfig.service systemd-firstboot.service systemd-hwdb-update.service "
    "systemd-journal-catalog-update.service systemd-machine-id-commit.service "
    "systemd-update-done.service systemd-sysusers.service systemd-tpm2-setup.service "
    "systemd-tpm2-setup-early.service systemd-pcrmachine.service systemd-pcrphase.service "
    "systemd-pcrphase-sysinit.service systemd-hibernate-clear.service systemd-binfmt.service "
    "systemd-logind.service systemd-user-sessions.service systemd-networkd-wait-online.service "
    "getty.target getty-static.service systemd-ask-password-wall.path remote-fs.target "
    "systemd-ask-password-console.path proc-sys-fs-binfmt_misc.automount "
    "systemd-networkd-persistent-storage.service systemd-network-generator.service "
    "systemd-creds.socket systemd-sysext.socket systemd-hostnamed.socket systemd-pcrextend.socket "
    "systemd-pcrlock.socket systemd-initctl.socket dev-hugepages.mount sys-kernel-debug.mount "
    "sys-kernel-tracing.mount sys-fs-fuse-connections.mount sys-kernel-config.mount"
).split()


@dataclass(frozen=True)
class Inputs:
    """What makes one device image different from another."""

    #: Directory made by ``composeapps-publish preload``; none gives an image without apps.
    factory: Path | None = None
    #: The trusted root; by default the factory store's.
    root: bytes = b""
    #: ``/etc/composeapps/composeapps.toml``.
    settings: str = ""
    #: Other files, by path in the root; they replace what is there.
    files: Mapping[str, bytes] = field(default_factory=dict)

    def key(self) -> str:
        """Return a digest over all that goes into the root image besides the device's tree."""
        digest = hashlib.sha256(Path(__file__).read_bytes() + self.root + self.settings.encode())
        for name, data in sorted(self.files.items()):
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        for directory in (AGENT / "composeapps", AGENT / "system", self.factory):
            for path in sorted(directory.rglob("*")) if directory else ():
                if path.is_file() and "__pycache__" not in path.parts:
                    digest.update(f"{path.relative_to(directory or path)}\0".encode())
                    digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def root_image(inputs: Inputs, base: Path | None = None) -> Path:
    """Return the root image of these inputs, made if it is not there yet.

    Args:
        base: what ``device_tree`` returns, the cached one by default.

    Raises:
        subprocess.CalledProcessError, RuntimeError: a program failed; its output is on stderr.
    """
    base = base or devicetree.device_tree()
    name = hashlib.sha256(f"{base.name} {inputs.key()}".encode()).hexdigest()[:12]
    final = tree.cache_directory() / f"root-{name}.erofs"
    with (final.parent / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.exists():
            print("making the root image ...", file=sys.stderr, flush=True)
            make_root_image(inputs, base, final)
            _forget_old(final.parent)
        os.utime(final)
    return final


def _forget_old(cache: Path) -> None:
    """Keep the root images that were used last: every change of the agent makes a new one."""
    images = sorted(cache.glob("root-*.erofs"), key=lambda path: path.stat().st_mtime)
    for path in images[:-_KEPT_IMAGES]:
        path.unlink()


def make_root_image(inputs: Inputs, base: Path, final: Path) -> None:
    """Write the root image anew."""
    stage = final.with_name(f".tmp-stage-{final.name}")
    shutil.rmtree(stage, ignore_errors=True)
    # Hard links: nothing below is written to, only replaced.
    subprocess.run(["cp", "-al", str(base / "root"), str(stage)], check=True)
    _fill(stage, inputs)
    temporary = final.with_name(f".tmp-{final.name}")
    temporary.unlink(missing_ok=True)
    make_erofs(devicetree.device_tree() / "root", stage, temporary)
    shutil.rmtree(stage)
    os.replace(temporary, final)


def _fill(stage: Path, inputs: Inputs) -> None:
    site = next((stage / "usr/local/lib").glob("python3.*/dist-packages"))
    ignored = shutil.ignore_patterns("__pycache__", "publish")
    shutil.rmtree(site / "composeapps")
    shutil.copytree(AGENT / "composeapps", site / "composeapps", ignore=ignored)
    (stage / "usr/local/bin/composeapps-publish").unlink(missing_ok=True)
    devicetree.compile_tree(stage, f"/{(site / 'composeapps').relative_to(stage)}")
    subprocess.run([str(AGENT / "system" / "install"), str(stage)], check=True)
    texts = {name: text.encode() for name, text in FILES.items()}
    texts["etc/composeapps/composeapps.toml"] = inputs.settings.encode()
    if inputs.factory is not None:
        shutil.copytree(inputs.factory, stage / "usr/share/composeapps/factory")
    trusted = inputs.root or (inputs.factory and (inputs.factory / "root.json").read_bytes())
    if trusted:
        texts["usr/share/composeapps/root.json"] = trusted
    for name, data in {**texts, **inputs.files}.items():
        _write(stage / name, data)
    units = stage / "etc/systemd/system"
    # It warns that it runs in a chroot; what it says is of interest where it fails.
    preset = ["chroot", str(stage), "systemctl", "--quiet", "preset-all"]
    done = subprocess.run(preset, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"units cannot be enabled: {done.stderr}")
    for unit in _MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)


def make_erofs(tools: Path, source: Path, target: Path) -> None:
    """Write an EROFS image of a directory with the ``mkfs.erofs`` of a tree."""
    loader = next(tools.glob("usr/lib*/ld-linux-*.so.*"))
    libraries = ":".join(str(path) for path in sorted(tools.glob("usr/lib/*-linux-gnu*")))
    command = [str(loader), "--library-path", libraries, str(tools / "usr/bin/mkfs.erofs")]
    # Sealed layers inside are compressed already, and are mounted from the file as it lies there.
    hints = target.with_name(f"{target.name}.hints")
    hints.write_text("0 usr/share/composeapps/factory/layers/.*\n")
    command += ["--quiet", "-zlz4hc", "-C65536", f"-T{devicetree.EPOCH}", f"-U{_UUID}"]
    command += [f"--compress-hints={hints}", "-x-1", str(target), str(source)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    hints.unlink()


def write_disk(root: Path, disk: Path, size: int, other: Path | None = None) -> None:
    """Write a disk of ``size`` bytes with a root image in slot A, and one in B where given.

    Raises:
        ValueError: the disk is too small.
        subprocess.CalledProcessError: sfdisk or mkfs.ext4 failed.
    """
    images = [root, *([other] if other else [])]
    # A firmware update brings a root that may be larger than today's.
    slot = (max(image.stat().st_size for image in images) * 5 // 4 // (64 * MIB) + 1) * 64 * MIB
    begin = EDGE + 2 * slot
    if size < begin + DATA_SIZE + EDGE:
        raise ValueError(f"a disk of {size} bytes has no room for two slots of {slot} and data")
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate(begin + DATA_SIZE + EDGE)
    starts = {ROOT_A: EDGE, ROOT_B: EDGE + slot}
    script = ["label: gpt", f"label-id: {_UUID}"]
    script += [f"start={starts[ROOT_A] // 512}, size={slot // 512}, name=root-a"]
    script += [f"start={starts[ROOT_B] // 512}, size={slot // 512}, name=root-b"]
    script += [f"start={begin // 512}, size={DATA_SIZE // 512}, name=data"]
    command = ["sfdisk", "--quiet", str(disk)]
    subprocess.run(command, input="\n".join(script), text=True, check=True)
    for image, start in zip(images, starts.values(), strict=False):
        copy = ["dd", f"if={image}", f"of={disk}", "bs=1M", f"seek={start // MIB}"]
        subprocess.run([*copy, "conv=notrunc,sparse", "status=none"], check=True)
    # -i: for so small a file system it would be 4096, and growing it writes all those inodes.
    options = ["-q", "-F", "-b", "4096", "-i", "16384", "-O", "verity", "-L", "data"]
    options += ["-E", f"offset={begin},lazy_itable_init=1", str(disk), str(DATA_SIZE // 4096)]
    subprocess.run(["mkfs.ext4", *options], check=True)
    with disk.open("r+b") as file:
        file.truncate(size)
