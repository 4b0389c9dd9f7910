"""One device: its settings and the seams to the outside, each made at its first use."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from composeapps import durable
from composeapps.boot import boot_id
from composeapps.config import Settings
from composeapps.errors import (
    BusyError,
    ConfigError,
    DamagedStateError,
    IntegrityError,
    TrustError,
)
from composeapps.oci import Platform, digest_of
from composeapps.release import LIMIT, NAME, Release
from composeapps.store import Store, Stores, parse_layer_name, verify_layer

if TYPE_CHECKING:
    from composeapps.engine import Engine
    from composeapps.snapshots import Snapshots
    from composeapps.source import Source
    from composeapps.state import State
    from composeapps.trust import Trust

log = logging.getLogger(__name__)

#: State key: the boot in which a person stopped the apps.
STOPPED = "stopped-in-boot"
#: State keys: this boot and when it began, by the clock; when the first unclean one began.
SESSION, SUSPECT = "session", "suspect-since"
#: File that the resident part writes, with the boot's name in it, when it is stopped in order.
CLEAN = "stopped-in-order"
#: What uname(2) calls machines whose platform has another name than containerd's ``Normalize``
#: makes of it; a 64-bit ARM that runs 32-bit programs runs those of version 7.
_MACHINES = {
    "armv6l": "arm/v6",
    "armv7l": "arm/v7",
    "armv8l": "arm/v7",
    "i586": "386",
    "i686": "386",
    "loongarch64": "loong64",
}


class Device:
    """Everything that the verbs work on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.data = settings.paths.data
        self.apps = self.data / "apps"
        self.ingest = self.data / "ingest"
        self.layers = settings.paths.run / "layers"
        self.stores = Stores(Store(settings.paths.factory), Store(self.data / "store"))

    @cached_property
    def platform(self) -> Platform:
        """What images have to be made for."""
        if self.settings.device.platform:
            return Platform.parse(self.settings.device.platform)
        machine = platform.machine()
        return Platform.parse(f"linux/{_MACHINES.get(machine, machine)}")

    @cached_property
    def id(self) -> str:
        """A name of this device that stays: the setting, else what systemd made at first boot."""
        if self.settings.device.id:
            return self.settings.device.id
        try:
            return Path("/etc/machine-id").read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return platform.node()

    @cached_property
    def boot_id(self) -> str:
        """A name of this boot, another at each."""
        return boot_id()

    @cached_property
    def factory_digest(self) -> str:
        """Digest of the release that the image carries, or empty where it carries none.

        The store holds it twice, as ``release.json`` and as a blob: a damaged one stops nothing.
        """
        data = self._factory_release
        if data is None:
            return ""
        if digest_of(data) in self.stores.factory.all_blobs():
            return digest_of(data)
        log.error("the image's %s is damaged", self.settings.paths.factory / NAME)
        found = map(self._release_in, self.stores.factory.all_blobs())
        return max(found, default=(0, ""))[1]

    @property
    def factory_is_damaged(self) -> bool:
        """Whether the image's ``release.json`` is not what its store holds."""
        data = self._factory_release
        return data is not None and digest_of(data) != self.factory_digest

    @cached_property
    def _factory_release(self) -> bytes | None:
        try:
            return (self.settings.paths.factory / NAME).read_bytes()
        except FileNotFoundError:
            return None
        except OSError:  # the medium is damaged
            return b""

    def _release_in(self, digest: str) -> tuple[int, str]:
        try:
            return Release.parse(self.stores.read_blob(digest, LIMIT), digest).version, digest
        except (IntegrityError, TrustError):
            return 0, ""

    @cached_property
    def state(self) -> State:
        """The open state file; raises StateError where it cannot be used."""
        from composeapps.statefile import open_state

        durable.make_dir(self.data)
        return open_state(self.data)

    @cached_property
    def engine(self) -> Engine:
        """The Docker Engine."""
        from composeapps.engine import Engine

        return Engine(self.settings.engine.docker)

    @cached_property
    def snapshots(self) -> Snapshots:
        """The engine's containerd."""
        from composeapps.snapshots import Snapshots

        engine = self.settings.engine
        return Snapshots(engine.containerd, engine.containerd_root)

    @cached_property
    def source(self) -> Source:
        """Where content comes from."""
        from composeapps.source import Source

        return Source(self.settings)

    @cached_property
    def trust(self) -> Trust:
        """The TUF client, bound to the root that the image carries; raises ConfigError."""
        from composeapps.trust import Trust

        source, paths = self.source, self.settings.paths
        return Trust(
            self.data / "trust",
            self._read_root(paths.root),
            source.metadata_url,
            source.targets_url,
            source.get,
            self.state,
            build_time=self.settings.device.build_time,
            factory=paths.factory / "trust",
            scratch=paths.run,
        )

    @property
    def stopped(self) -> bool:
        """Whether a person stopped the apps in this boot; the next one runs them again."""
        return self.state.get(STOPPED) == self.boot_id

    def set_stopped(self, stopped: bool) -> None:
        """Remember whether the apps are to stay stopped."""
        if stopped or self.state.get(STOPPED):
            self.state.put(STOPPED, self.boot_id if stopped else "")

    @property
    def suspect_since(self) -> float:
        """When the first boot began that ended uncleanly and is not looked after, or 0."""
        return float(self.state.get(SUSPECT) or 0)

    def forget_suspects(self, since: float) -> None:
        """Take in that what was written since then has been looked at."""
        if self.suspect_since == since:
            self.state.put(SUSPECT, "")

    def note_boot(self) -> None:
        """Take in that this boot has begun, and whether the one before ended in order.

        The resident part says so when it ends (``supervise.CLEAN``).
        """
        marker = self.data / CLEAN
        ended = marker.read_text("ascii", "replace").strip() if marker.is_file() else ""
        before, _, began = self.state.get(SESSION).partition(" ")
        if before != self.boot_id:
            if before and before != ended and not self.suspect_since:
                log.warning("the last shutdown was unclean: what was written will be verified")
                self.state.put(SUSPECT, began)
            self.state.put(SESSION, f"{self.boot_id} {time.time()}")
        if ended:
            durable.remove(marker)  # it is open again how this one ends

    @contextlib.contextmanager
    def writer(self, verb: str) -> Iterator[None]:
        """Be the one writer; leftovers of an interrupted one are cleared away first.

        Raises:
            BusyError: another process is at work; says which.
        """
        durable.make_dir(self.data)
        with (self.data / "lock").open("a+", encoding="utf-8", errors="replace") as lock:
            _hold(lock, verb)
            self._tidy()
            self.open_or_rebuild_state()
            yield
            lock.truncate(0)

    @contextlib.contextmanager
    def early_lock(self, verb: str) -> Iterator[None]:
        """Keep writers away where the data partition is there, and change nothing on it.

        Raises:
            BusyError: another process is at work; says which.
        """
        with contextlib.ExitStack() as stack:
            try:
                lock = stack.enter_context((self.data / "lock").open("r+", errors="replace"))
            except OSError as error:  # nobody ever wrote, or nobody can
                log.debug("working without a lock: %s", error)
            else:
                _hold(lock, verb)
            yield

    def distrust(self, path: Path, *, damaged: bool) -> None:
        """Remember that a file of the factory store is damaged, or is not any more."""
        known = set(self.stores.distrusted)
        (known.add if damaged else known.discard)(str(path))
        if known != self.stores.distrusted:
            self.stores.distrusted = known
            self.state.put("distrusted", "\n".join(sorted(known)))

    def _tidy(self) -> None:
        self.settings.paths.run.mkdir(parents=True, exist_ok=True)
        for directory in (self.apps, self.ingest):
            durable.make_dir(directory)
        self.stores.data.create()
        trust = self.data / "trust"
        scratch = (self.settings.paths.run, trust, trust / "sets", trust / "roots")
        for directory in (*scratch, self.apps, *self.apps.iterdir()):
            durable.remove_temporaries(directory)

    def open_or_rebuild_state(self) -> None:
        """Open the state file; a damaged one is moved aside and begun anew (law L1).

        What was in it that is not elsewhere: which release failed, and events not yet reported.
        """
        try:
            self.state.check()
        except DamagedStateError as error:
            path = self.data / "state.db"
            if "state" in self.__dict__:
                path = self.state.path
                self.state.close()
                del self.state
            durable.publish_path(path, path.with_name(f"{path.name}.damaged"))
            for suffix in ("-journal", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self.state.add_event("state-lost", {"reason": str(error)})
        self.stores.distrusted = set(self.state.get("distrusted").split("\n")) - {""}
        for name in sorted(self.stores.distrusted):
            layer = parse_layer_name(Path(name))
            if layer is None or verify_layer(layer):  # another image has mended it
                self.distrust(Path(name), damaged=False)

    @staticmethod
    def _read_root(path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"the TUF root {path} cannot be read ({error.strerror}): put the root.json that "
                "composeapps-publish init made there, or set paths.root"
            ) from error


def _hold(lock: TextIO, verb: str) -> None:
    """Lock the lock file, and say in it who has it; raises BusyError."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read(200).strip() or "another process"
        raise BusyError(
            f"composeapps is at work already ({holder}): try again when it has ended"
        ) from error
    with contextlib.suppress(OSError):  # who has it is only told; a full disk must stop nothing
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), f"`composeapps {verb}`, process {os.getpid()}\n".encode())
