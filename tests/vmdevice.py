"""One virtual device for a test: a machine, the maker's world that it follows, and a server."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
import vmlaw
import vmworld
import yoctodevice

from architecture import AMD64, Architecture
from channel import Result
from composeapps.errors import BusyError
from hardware import Options
from vm import Machine

#: Seconds for which a command is asked again while another is at work.
PATIENCE = 600.0

#: What takes many boots of an emulator; continuous integration has an hour.
long = pytest.mark.skipif(
    not os.environ.get("LONG"), reason="minutes in an emulator: make long runs it"
)


class Device:
    """A machine, the maker's world that it follows, and the world's server."""

    def __init__(
        self,
        directory: Path,
        settings: str = vmworld.QUIET,
        architecture: Architecture = AMD64,
    ) -> None:
        base = yoctodevice.directory() if yoctodevice.ASKED else vmworld.factory_world(architecture)
        shutil.copytree(base / "world", directory / "world")
        self.factory = base / "factory"
        self.world = vmworld.open_world(directory / "world", architecture)
        self.server = vmworld.Server(self.world.site)
        run_files: dict[str, bytes | str] = {"composeapps-test/ask": vmlaw.ASK_FILE}
        if yoctodevice.ASKED:
            self.disk = yoctodevice.disk(directory / "disk.raw", vmworld.DISK_SIZE)
            run_files |= yoctodevice.run_files(vmworld.SETTINGS + settings)
            self.options = Options(run_files=run_files, tree=base)
        else:
            self.disk = vmworld.device_disk(
                directory / "disk.raw", self.factory, settings, architecture=architecture
            )
            self.options = Options(run_files=run_files, architecture=architecture)
        self.machine = Machine(directory / "machine", self.disk, self.options)
        self.machine.reach(vmworld.PORT, self.server.address)

    def boot(self, *, network: bool = True, slot: str = "a") -> None:
        """Turn it on, with or without a network card, from one of its root images."""
        self.options.network, self.options.slot = network, slot
        self.machine.start()

    def judge(self, fsynced: list[str]) -> vmlaw.Verdict:
        """Ask the law and print how long it took to be healthy."""
        verdict = vmlaw.judge(self.machine, fsynced, vmlaw.images_of(self.world.site))
        print(f"healthy {verdict.healthy_after:.1f} s after power-on")
        return verdict

    def release(self, version: int, compose: str = vmworld.PATIENT, *, size: int = 200_000) -> int:
        """Sign a release with one changed app, of which so many bytes are new."""
        app = self.world.ticker(version, size=size, compose=compose)
        return self.world.release({"a": app})

    def command(self, *words: str, within: float = 600.0) -> Result | None:
        """Run ``composeapps``; again where the resident part's own child was at work.

        Returns:
            None where the command is still at work after ``within`` seconds.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            found = self.machine.answer(self.machine.send("composeapps", *words), within)
            busy = found is not None and found.code == BusyError.exit_code
            if not busy or time.monotonic() > deadline:
                return found
            time.sleep(1)

    def close(self) -> None:
        """Turn everything off."""
        self.machine.close()
        self.server.close()
