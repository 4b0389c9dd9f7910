"""What the virtual device consists of, as QEMU's options."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import packets
from accelerator import accelerator
from architecture import AMD64, Architecture
from emulator import emulator

KERNEL_WORDS = (
    "quiet gpt panic=5 systemd.show_status=error "
    # Protection between processes that an emulator makes expensive, and debugging aids.
    "mitigations=off init_on_alloc=0 audit=0 nokaslr cryptomgr.notests no_timer_check tsc=reliable "
    "lsm=capability transparent_hugepage=never rcupdate.rcu_expedited=1"
)


@dataclass
class Options:
    """What the machine is like."""

    memory: int = 1024
    cores: int = 2
    #: ``a`` or ``b``: the slot that it boots from.
    slot: str = "a"
    #: Words added to the kernel's command line.
    append: str = ""
    network: bool = True
    #: Packets go through ``packets.Packets``, which can lose some.
    lossy: bool = False
    #: The date at power-on as ``YYYY-MM-DD``; by default the right time.
    clock: str = ""
    architecture: Architecture = AMD64
    #: What is there in ``/run`` from the start, by path (see ``initrd.build``).
    run_files: Mapping[str, bytes | str] = field(default_factory=dict)
    #: ``tcg`` or ``kvm``; the latter by default where it works.
    accelerator: str = ""
    #: Holds ``boot`` and ``root`` as ``devicetree.device_tree`` says; that one by default.
    tree: Path | None = None
    #: Where OVMF lies: then the disk boots by itself, with a kernel and an initramfs of its own.
    firmware: Path | None = None
    #: Take the channel for commands; else it is left to another process.
    channel: bool = True


def direct(options: Options, directory: Path, boot: Path) -> list[str]:
    """Return the options that boot the kernel of a tree with the initramfs in ``directory``."""
    console = f"console={options.architecture.console}"
    words = f"{console} {KERNEL_WORDS} composeapps.slot={options.slot} {options.append}"
    kernel = ["-kernel", str(boot / "boot" / "vmlinuz")]
    return [*kernel, "-initrd", str(directory / "initrd"), "-append", words]


def firmware(place: Path, directory: Path) -> list[str]:
    """Return the options for OVMF's firmware; its variables are kept in ``directory``."""
    variables = directory / "variables.fd"
    if not variables.exists():
        shutil.copy(place / "OVMF_VARS_4M.fd", variables)
    code = f"if=pflash,format=raw,readonly=on,file={place / 'OVMF_CODE_4M.fd'}"
    return ["-drive", code, "-drive", f"if=pflash,format=raw,file={variables}"]


def command(options: Options, directory: Path, boot: Path, disk: list[str]) -> list[str]:
    """Return the command that runs QEMU, but for what boots (``direct`` and ``firmware``).

    Args:
        directory: sockets of console, channel and monitor are made there.
        boot: what ``devicetree.device_tree`` returns.
        disk: options that make a node named ``disk``.
    """
    kind = options.architecture
    chosen = options.accelerator or (
        accelerator(boot / "boot", boot / "root") if kind == AMD64 else "tcg"
    )
    processor = kind.processor if chosen == "tcg" else "host"
    command = [*emulator(kind), "-M", f"{kind.board},accel={chosen}"]
    command += ["-cpu", processor, "-nodefaults"]
    command += ["-no-user-config", "-display", "none", "-smp", str(options.cores)]
    command += ["-m", str(options.memory)]
    command += [*disk, "-device", "virtio-blk-pci,drive=disk,write-cache=on"]
    command += ["-device", "virtio-serial-pci", "-device", "i6300esb"]
    command += ["-action", "watchdog=reset"]
    for name in ("console", "channel", "qmp"):
        path = directory / f"{name}.socket"
        command += ["-chardev", f"socket,id={name},path={path},server=on,wait=off"]
    command += ["-serial", "chardev:console", "-mon", "chardev=qmp,mode=control"]
    command += ["-device", "virtserialport,chardev=channel,name=composeapps.test"]
    if options.clock:
        command += ["-rtc", f"base={options.clock}"]
    if options.network:
        command += ["-netdev", "user,id=net,ipv6=off"]
        command += ["-device", "virtio-net-pci,netdev=net,id=nic"]
        if options.lossy:
            command += packets.options(str(directory))
    return command
