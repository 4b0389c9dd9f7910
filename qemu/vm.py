"""One virtual device: power, console, commands, network.

    machine = Machine(directory, disk, boot)
    machine.start()
    machine.wait_for_channel()
    print(machine.run("composeapps", "status").out)
    loss = machine.cut(random.Random(7))

Power cuts are true (``disk.py``). Commands go by a virtio-serial port, whose program comes with
the initramfs (``guest/serve.py``). The console is written to ``console.log`` with the seconds
since power-on. Everything runs in a network namespace of its own.
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import credentials
import hardware
import initrd
import monitor
import packets
from channel import Channel, MachineError, Result, lines
from devicetree import device_tree
from disk import Disk, Loss
from hardware import Options
from packets import Packets
from relay import Relay

HERE = Path(__file__).resolve().parent
CHANNEL_UNIT = """\
[Unit]
Description=Commands from the test
DefaultDependencies=no

[Service]
ExecStart=/run/composeapps-test/channel
Restart=always
StandardError=journal
"""
_UNIT = "composeapps-test.service"
#: Seconds. A boot takes 10 on an idle machine with two cores; machines are shared.
BOOT_TIMEOUT = 300.0


class Machine:
    """A device that can be started, asked, cut and started again."""

    def __init__(self, directory: Path, disk: Disk, options: Options | None = None) -> None:
        self.directory = directory
        self.disk = disk
        self.options = options or Options()
        self.relays: dict[int, Relay] = {}
        #: Where ``options.lossy`` says so, what carries the packets.
        self.packets = Packets()
        self._targets: dict[int, tuple[str, int]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._started = 0.0
        directory.mkdir(parents=True, exist_ok=True)

    # Power.

    def start(self, snapshot: Path | None = None) -> None:
        """Turn it on; where a snapshot is given it goes on from there, the disk as it was then."""
        assert self._process is None, "the machine runs"
        boot = self.options.tree or device_tree(architecture=self.options.architecture)
        for path in self.directory.glob("*.socket"):
            path.unlink()
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "-n",
            "--",
            "sh",
            "-c",
            'ip link set lo up && exec "$0" "$@"',
        ]
        with (self.directory / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *hardware.command(self.options, self.directory, boot, self.disk.arm())]
                + [*self._what_boots(boot), *_incoming(snapshot)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._started = time.monotonic()
        threading.Thread(
            target=self._log_console, args=(self._open("console.socket"),), daemon=True
        ).start()
        if self.options.channel:
            self.attach()
        if self.options.network and self.options.lossy:
            for queue in packets.QUEUES:
                ways = [self._open(packets.name(queue, way)) for way in ("out", "in")]
                self.packets.carry(*ways)
        self.relays = {
            port: Relay(self._process.pid, port, target) for port, target in self._targets.items()
        }
        if snapshot:
            self._go_on()

    def _what_boots(self, boot: Path) -> list[str]:
        """Return the options that say what boots, and bring what a test needs in the guest."""
        place, files = self.options.firmware, self._run_files()
        if place is not None:
            return hardware.firmware(place, self.directory) + credentials.options(
                self.directory, files
            )
        initramfs = initrd.build(boot / "boot", boot / "root", files)
        (self.directory / "initrd").write_bytes(initramfs)
        return hardware.direct(self.options, self.directory, boot)

    def _go_on(self) -> None:
        """Let a machine that was saved run; it was stopped then, and so it is when it is loaded."""
        deadline = time.monotonic() + 120
        while (found := self.monitor("query-status")["status"]) == "inmigrate":
            if time.monotonic() > deadline:
                raise MachineError("the snapshot is not loaded after two minutes")
            time.sleep(0.05)
        if found != "running":
            self.monitor("cont")

    def attach(self) -> None:
        """Take the channel for commands, of which there is one; of a machine started elsewhere too.

        Raises:
            MachineError: no machine runs in this directory.
        """
        self._channel = Channel(self._open("channel.socket"), self._alive)

    @property
    def pid(self) -> int:
        """The process that is the machine: without it the power is gone; raises MachineError."""
        if self._process is None:
            raise MachineError("the machine is off")
        return self._process.pid

    def wait(self) -> int:
        """Wait until it is off, by whatever; return QEMU's exit code."""
        assert self._process is not None
        return self._process.wait()

    def _run_files(self) -> dict[str, bytes | str]:
        return {
            "composeapps-test/channel": (HERE / "guest" / "serve.py").read_bytes(),
            f"systemd/system/{_UNIT}": CHANNEL_UNIT,
            f"systemd/system/sysinit.target.wants/{_UNIT}": f"->../{_UNIT}",
            **self.options.run_files,
        }

    def _open(self, name: str) -> socket.socket:
        """Connect to the socket of this file name."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        deadline = time.monotonic() + 20
        while True:
            try:
                connection.connect(str(self.directory / name))
                return connection
            except OSError:
                if (
                    self._process is None
                    or self._process.poll() is not None
                    or time.monotonic() > deadline
                ):
                    log = self.directory / "qemu.log"
                    said = log.read_text("utf-8", "replace")[-2000:] if log.exists() else ""
                    raise MachineError(f"no machine runs in {self.directory}: {said}") from None
                time.sleep(0.02)

    def cut(self, rng: random.Random | None = None) -> Loss:
        """Cut the power now. What the guest did not flush is lost, but for what ``rng`` keeps."""
        self.kill()
        return self.disk.settle(rng or random.Random(0))

    def save(self, snapshot: Path) -> None:
        """Stop it where it is and write that down, for ``start``; its disk holds all it wrote.

        Raises:
            MachineError: QEMU cannot, or takes longer than two minutes.
        """
        self.run("sync")
        self.monitor("stop")
        self.monitor("migrate-set-parameters", **{"max-bandwidth": 2**40})
        self.monitor("migrate", uri=f"exec:cat > {shlex.quote(str(snapshot))}")
        deadline = time.monotonic() + 120
        while (found := self.monitor("query-migrate")["status"]) != "completed":
            if found == "failed" or time.monotonic() > deadline:
                raise MachineError(f"the snapshot is not written: {found}")
            time.sleep(0.1)
        self.kill()
        self.disk.settle()

    def shut_down(self, timeout: float = 120.0) -> None:
        """Turn it off as systemd does; raises MachineError after so many seconds."""
        assert self._process is not None
        self.send("systemctl", "poweroff")
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise MachineError(f"does not shut down\n{self.console(40)}") from None
        self.kill()
        self.disk.settle()

    def kill(self) -> None:
        """Take the power away; the disk is not settled yet (``Disk.settle``)."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        for relay in self.relays.values():
            relay.close()
        self.relays = {}
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def close(self) -> None:
        """Turn it off in any way; the disk keeps only what was flushed."""
        self.kill()
        self.disk.settle(random.Random(0))

    @property
    def seconds(self) -> float:
        """Seconds since power-on."""
        return time.monotonic() - self._started

    # Network.

    def reach(self, port: int, target: tuple[str, int]) -> None:
        """Let the guest reach a server of this machine as port ``port`` of ``HOST_ADDRESS``."""
        self._targets[port] = target
        if self._process is not None:
            self.relays[port] = Relay(self._process.pid, port, target)

    def plug(self, up: bool) -> None:
        """Pull the network's cable, or plug it in."""
        self.monitor("set_link", name="nic", up=up)

    def monitor(self, command: str, **arguments: object) -> Any:
        """Ask QEMU itself (QMP); returns what it answers."""
        with monitor.connected(self.directory / "qmp.socket") as protocol:
            return protocol.cmd(command, **arguments)

    def wait_for_event(self, name: str, timeout: float) -> dict[str, Any]:
        """Wait for an event of QEMU's and return its data; what the guest says is not looked at.

        Raises:
            MachineError: it did not come within so many seconds.
        """
        try:
            return monitor.wait_for_event(self.directory / "qmp.socket", name, timeout)
        except TimeoutError:
            raise MachineError(f"no {name} in {timeout:g} s\n{self.console(40)}") from None

    # Commands.

    def wait_for_channel(self, timeout: float = BOOT_TIMEOUT) -> float:
        """Wait until commands are taken; return the seconds since power-on."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            # QEMU drops what is written before the guest has opened its port.
            number = self.send("true", timeout=10)
            if self.answer(number, 1.0) is not None:
                return self.seconds
        raise MachineError(f"takes no commands after {timeout:g} s\n{self.console(40)}")

    def send(self, *argv: str, data: bytes = b"", timeout: float = 600.0) -> int:
        """Have a command run and do not wait for it; return its number.

        Raises:
            MachineError: the machine is off.
        """
        if self._channel is None:
            raise MachineError("the machine is off")
        return self._channel.send(argv, data, timeout)

    def answer(self, number: int, timeout: float) -> Result | None:
        """Return how a command ended; None where that is not known after so many seconds."""
        return self._channel.answer(number, timeout) if self._channel else None

    def run(
        self, *argv: str, check: bool = True, data: bytes = b"", timeout: float = 600.0
    ) -> Result:
        """Run a command in the guest to its end.

        Raises:
            MachineError: no answer came, or its code is not 0 and ``check`` is set.
        """
        found = self.answer(self.send(*argv, data=data, timeout=timeout), timeout + 30)
        if found is None:
            raise MachineError(f"{shlex.join(argv)}: no answer\n{self.console(40)}")
        if check and found.code != 0:
            said = f"{found.out}\n{found.err}"
            raise MachineError(f"{shlex.join(argv)} ended with {found.code}\n{said}")
        return found

    def _alive(self) -> bool:
        return self._process is None or self._process.poll() is None

    # Console.

    def _log_console(self, connection: socket.socket) -> None:
        with (self.directory / "console.log").open("ab") as log:
            log.write(b"---------- power on\n")
            log.flush()
            for line in lines(connection):
                log.write(f"[{self.seconds:7.2f}] ".encode() + line.rstrip() + b"\n")
                log.flush()
        connection.close()

    def console(self, lines: int) -> str:
        """Return the console's last lines."""
        text = (self.directory / "console.log").read_text("utf-8", "replace")
        return "\n".join(text.splitlines()[-lines:])


def _incoming(snapshot: Path | None) -> list[str]:
    return ["-incoming", f"exec:cat {shlex.quote(str(snapshot))}"] if snapshot else []
