"""The image boots by itself: no network, apps from the factory store, nothing copied, nothing open.

One device goes through all of this in order; each test begins where the one before ended.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import vmlaw
import yoctodevice
from vmdevice import Device

from disk import FLUSH, SHARES
from tree import cache_directory

MIB = 1024**2
#: Seconds; the watchdog has 30, by the clock of a guest that gets a part of the processor.
RESET_WITHIN = 180.0
#: Takes all blocks that there are for who may not take reserved ones.
FILL = """\
fallocate -l $(($(stat -f -c %a /var) * 4096 - 1048576)) /var/lib/fill
cat /dev/zero >/var/lib/fill2
"""
#: Makes two files, fsynced; prints the block in which the second begins (FIBMAP, <linux/fs.h>).
PREPARE = """\
import fcntl, os, struct
for name, data in ("kept", b"kept" * 10000), ("direct", bytes(4096)):
    f = os.open("/var/lib/" + name, os.O_CREAT | os.O_RDWR)
    os.write(f, data)
    os.fsync(f)
os.fsync(os.open("/var/lib", os.O_RDONLY))
print(struct.unpack("i", fcntl.ioctl(f, 1, struct.pack("i", 0)))[0])
"""
COUNT = """\
import itertools, mmap, os
f = os.open("/var/lib/direct", os.O_RDWR | os.O_DIRECT)
page = mmap.mmap(-1, 4096)
for number in itertools.count(1):
    page[:8] = number.to_bytes(8, "little")
    os.pwritev(f, [page], 0)
"""
#: Prints the seconds that the checks of a boot take in ``composeapps start``, once it is loaded.
CHECKS = """\
import time
from composeapps import config, install, scrub, update
from composeapps.device import Device
device = Device(config.load())
with device.writer("test"):
    plan = update.running_plan(device)
    begun = time.monotonic()
    device.open_or_rebuild_state()
    device.note_boot()
    suspects = device.suspect_since
    found = scrub.scrub(device)
    verified = time.monotonic()
    install.tell(device, plan)
    print(verified - begun, time.monotonic() - verified, found.hashed, suspects)
"""


#: With this seed no write after the last flush is kept.
NOTHING_MORE = next(seed for seed in range(99) if random.Random(seed).choice(SHARES) == 0)


def test_first_boot_without_a_network_brings_the_apps_to_healthy(device: Device) -> None:
    device.boot(network=False)
    verdict = device.judge(fsynced=["v1"])
    assert verdict.broken == []
    assert verdict.facts["releases"] == [[1, "committed"]]


def test_the_emulator_is_the_same_whatever_this_machine_has(device: Device) -> None:
    loader = Path(f"/proc/{device.machine.pid}/exe").readlink()
    assert loader.is_relative_to(cache_directory().resolve()), loader
    assert device.machine.monitor("query-version")["qemu"]["major"] == 10


def test_no_layer_byte_is_written_to_the_data_partition(device: Device) -> None:
    machine = device.machine
    script = "cat /sys/block/vda/vda3/stat; find /var -xdev -type f -size +256k"
    counters, *large = machine.run("sh", "-c", script).out.splitlines()
    written = int(counters.split()[6]) * 512
    print(f"{written / MIB:.1f} MiB were written to the data partition")
    # bbolt, containerd's and Docker's database format, grows in steps; nothing else is large.
    assert [path for path in large if not path.endswith(".db")] == []
    assert machine.run("sh", "-c", "ls /var/lib/composeapps/store/layers").out == ""


def test_sealed_layers_are_mounted_from_the_files_in_the_root_image(device: Device) -> None:
    mounts = device.machine.run("cat", "/proc/mounts").out
    sealed = [line for line in mounts.splitlines() if " /run/composeapps/layers/" in line]
    assert len(sealed) == 2
    assert all(line.startswith("/usr/share/composeapps/factory/layers/") for line in sealed)


def test_the_data_partition_fills_the_disk(device: Device) -> None:
    size = int(device.machine.run("cat", "/sys/block/vda/vda3/size").out) * 512
    total = int(device.machine.run("cat", "/sys/block/vda/size").out) * 512
    start = int(device.machine.run("cat", "/sys/block/vda/vda3/start").out) * 512
    assert total - start - size < 2 * MIB
    blocks = int(device.machine.run("stat", "-f", "-c", "%b", "/var").out) * 4096
    assert blocks > 0.9 * size


def test_root_and_etc_are_read_only(device: Device) -> None:
    for path in ("/etc", "/usr", "/"):
        done = device.machine.run("touch", f"{path}/x", check=False)
        assert done.code != 0 and "Read-only file system" in done.err


def test_all_units_are_well_and_none_is_left_out(device: Device) -> None:
    machine = device.machine
    assert machine.run("systemctl", "--failed", "--plain", "--no-legend").out == ""
    for unit in ("mount", "start", "machine-id"):
        assert machine.run("systemctl", "is-active", f"composeapps-{unit}").out == "active\n"
    script = "cat /proc/$(systemctl show -P MainPID composeapps)/smaps_rollup"
    pss = next(
        line for line in machine.run("sh", "-c", script).out.splitlines() if line.startswith("Pss:")
    )
    print(f"the resident part: {pss}")
    assert int(pss.split()[1]) <= 16 * 1024


def wait_until_armed(device: Device) -> None:
    """Wait for systemd to take the watchdog, whose driver udev loads after systemd has begun."""
    deadline = time.monotonic() + 120
    while True:
        state = device.machine.run("cat", "/sys/class/watchdog/watchdog0/state").out
        if state == "active\n":
            return
        assert time.monotonic() < deadline, f"the watchdog is {state}"
        time.sleep(1)


def test_the_hardware_watchdog_is_armed(device: Device) -> None:
    wait_until_armed(device)


@pytest.mark.skipif(
    yoctodevice.ASKED, reason="a whole Debian tree stands in for what bitbake would compile"
)
def test_there_is_no_package_manager_and_no_docker_command(device: Device) -> None:
    script = (
        "for name in apt apt-get dpkg docker perl ssh sshd gcc; do command -v $name; done; true"
    )
    assert device.machine.run("sh", "-c", script).out == ""


def test_where_the_time_went(device: Device) -> None:
    print(device.machine.run("systemd-analyze", "--no-pager").out)
    print(device.machine.run("systemd-analyze", "critical-chain", "--no-pager").out)


def checks(device: Device) -> list[float]:
    """Run CHECKS while nobody else is at work."""
    machine = device.machine
    machine.run("systemctl", "start", "composeapps-start.service")  # until it has ended
    machine.run("systemctl", "stop", "composeapps.service")
    said = machine.run("python3", "-c", CHECKS).out.split()
    machine.run("systemctl", "start", "composeapps.service")
    return [float(value) for value in said]


def test_the_checks_of_a_clean_boot_read_no_layer(device: Device) -> None:
    """The aim is a second for all; the figures are this machine's."""
    machine = device.machine
    machine.shut_down(300)
    device.boot(network=False)
    assert device.judge(fsynced=["v1"]).broken == []
    verified, compared, hashed, suspects = checks(device)
    assert (hashed, suspects) == (0, 0)
    times = {"state, sealed layers": verified, "engine": compared}
    for unit in ("data", "machine-id"):
        words = ("InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
        name = f"composeapps-{unit}.service"
        begun, ended = (machine.run("systemctl", "show", "-P", word, name).out for word in words)
        times[name] = (int(ended) - int(begun)) / 1e6
    print({name: f"{seconds:.2f} s" for name, seconds in times.items()})


def test_a_power_cut_loses_what_was_not_flushed_and_nothing_else(device: Device) -> None:
    """A program writes a growing number past the guest's cache and never asks for a flush."""
    machine, disk = device.machine, device.disk
    identity = machine.run("cat", "/etc/machine-id").out
    block = int(machine.run("python3", "-c", PREPARE).out)
    start = int(machine.run("cat", "/sys/block/vda/vda3/start").out) * 512
    place = start + block * 4096
    machine.send("python3", "-c", COUNT)
    time.sleep(5)
    machine.kill()
    entries = disk.entries()
    flush = max(at for at, entry in enumerate(entries) if entry.flags & FLUSH)
    log = disk.log.read_bytes()
    numbers = [
        (at, int.from_bytes(log[entry.at : entry.at + 8], "little"))
        for at, entry in enumerate(entries)
        if entry.offset == place
    ]
    promised = max([number for at, number in numbers if at < flush], default=0)
    loss = disk.settle(random.Random(NOTHING_MORE))
    print(f"{numbers[-1][1]} was written, {promised} was flushed; {loss}")
    assert promised < numbers[-1][1], "nothing was left to lose"
    with disk.path.open("rb") as file:
        file.seek(place)
        assert int.from_bytes(file.read(8), "little") == promised
    device.boot(network=False)
    assert device.judge(fsynced=["v1"]).broken == []
    assert machine.run("stat", "-c", "%s", "/var/lib/kept").out == "40000\n"
    assert machine.run("cat", "/etc/machine-id").out == identity
    *_, suspects = checks(device)
    assert suspects > 0, "what was written before the cut is to be looked at"


def test_docker_starts_on_a_data_partition_that_an_app_has_filled(device: Device) -> None:
    """Root in a container has no CAP_SYS_RESOURCE: reserved blocks stay the engine's (ADR 13)."""
    machine = device.machine
    as_in_a_container = ("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource")
    machine.run(*as_in_a_container, "sh", "-c", FILL, check=False)
    assert machine.run("stat", "-f", "-c", "%a", "/var").out == "0\n"
    machine.run("sync")
    machine.cut()
    device.boot(network=False)
    assert device.judge(fsynced=["v1"]).broken == []
    assert machine.run("stat", "-f", "-c", "%a", "/var").out == "0\n"
    machine.run("sh", "-c", "rm /var/lib/fill*")


def test_an_empty_data_partition_is_made_anew_and_the_apps_run(device: Device) -> None:
    machine = device.machine
    start = int(machine.run("cat", "/sys/block/vda/vda3/start").out) * 512
    machine.cut()
    with device.disk.path.open("r+b") as file:
        file.seek(start)
        for _ in range(64):  # superblock, its copies, journal
            file.write(bytes(MIB))
    device.boot(network=False)
    verdict = device.judge(fsynced=["v1"])
    assert verdict.broken == []
    said = machine.run("journalctl", "-b", "-u", "composeapps-data", "--no-pager").out
    assert "making a new one" in said or "full check" in said


def test_a_hung_system_is_rebooted_by_the_watchdog(device: Device) -> None:
    machine = device.machine
    wait_until_armed(device)
    print(f"the watchdog was armed {machine.seconds:.0f} s after power-on")
    boot = machine.run("cat", "/proc/sys/kernel/random/boot_id").out
    machine.run("sh", "-c", "echo 0 > /proc/sys/kernel/panic; echo 1 > /proc/sys/kernel/sysrq")
    machine.send("sh", "-c", "echo c > /proc/sysrq-trigger")  # a panic that waits for ever
    # No command meanwhile: a virtio-serial port whose buffers fill up stays shut after a reset.
    assert machine.wait_for_event("WATCHDOG", RESET_WITHIN)["action"] == "reset"
    print(f"and the reset came {machine.seconds:.0f} s after power-on")
    machine.wait_for_channel(vmlaw.HEALTHY_WITHIN)
    assert machine.run("cat", "/proc/sys/kernel/random/boot_id").out != boot


def test_sealed_layers_mounted_by_loop(make_device: object) -> None:
    """The way of kernels before 6.12, asked for by a setting."""
    assert callable(make_device)
    device: Device = make_device("[engine]\nmount = 'loop'\n")
    device.boot(network=False)
    assert device.judge(fsynced=["v1"]).broken == []
    mounts = device.machine.run("cat", "/proc/mounts").out
    sealed = [line for line in mounts.splitlines() if " /run/composeapps/layers/" in line]
    assert len(sealed) == 2 and all(line.startswith("/dev/loop") for line in sealed)
