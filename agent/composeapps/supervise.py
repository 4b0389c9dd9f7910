"""The resident part: a clock, the engine's events, the watchdog, and short-lived children.

Kept tiny: standard library only, nothing heavy is ever imported here (measured on CPython: a bare
interpreter takes 10 MB, with docker, tuf and yaml 47). All work is done by children, ``composeapps
start`` and ``composeapps update``; what they left undone is done by the next one.
"""

from __future__ import annotations

import os
import random
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from composeapps.boot import boot_id, boottime
from composeapps.config import Settings
from composeapps.engineevents import EngineEvents
from composeapps.errors import IntegrityError, SourceError
from composeapps.process import start

#: Seconds; the longest sleep, so that a wake-up from suspend is noticed.
TICK = 30.0
#: Seconds between a container's trouble and the look at it: a restart policy goes first.
DEBOUNCE = 10.0
#: Seconds before a child's end in which it may have missed a container's trouble: it has looked at
#: all of them by then, and only writes down what came of it.
UNSEEN = 3.0
#: Seconds; back-off of mending and of polling after an error doubles from the first to the second.
BACKOFF_FIRST, BACKOFF_LAST = 15.0, 900.0
#: Seconds without an answer of the engine before ``start`` is sent to mend it.
ENGINE_GRACE = 20.0
#: Seconds between two tries to connect to an engine that does not answer.
ENGINE_RETRY = 2.0
#: Seconds from the start to the first look at sealed layers, and between two.
SCRUB_FIRST, SCRUB_EVERY = 300.0, 3600.0
#: What a person stopped stays so; layers are verified as slowly as the settings say.
FLAGS = {"start": "--unless-stopped", "update": "--unless-stopped", "verify": "--scrub"}
#: File of the data directory that says in which boot the resident part was stopped in order. It
#: need not be durable: without it a shutdown counts as unclean.
CLEAN = "stopped-in-order"


@dataclass
class Backoff:
    """Doubling delays with a bound; a success begins anew."""

    first: float = BACKOFF_FIRST
    last: float = BACKOFF_LAST
    _next: float = field(default=0.0)

    def delay(self) -> float:
        """Return the seconds to wait after one more failure."""
        self._next = min(max(self.first, self._next * 2), self.last)
        return self._next

    def reset(self) -> None:
        """Begin anew after a success."""
        self._next = 0.0


@dataclass
class Schedule:
    """When which child runs next; a pure record of what happened, all times in seconds.

    The clock is CLOCK_BOOTTIME, which goes on while the device sleeps.
    """

    interval: float
    jitter: float
    start_at: float = 0.0
    update_at: float = 0.0
    scrub_at: float = 0.0
    _start_backoff: Backoff = field(default_factory=Backoff)
    _poll_backoff: Backoff = field(default_factory=Backoff)
    _settled_at: float = 0.0
    _asked: bool = False

    def due(self, now: float) -> str:
        """Return the verb that is due, or an empty string; mending goes before updating."""
        if self.start_at <= now:
            return "start"
        return "update" if self._asked or self.update_at <= now else ""

    def wait(self, now: float) -> float:
        """Return for how many seconds nothing is due, at most ``TICK``."""
        return 0.0 if self.due(now) else min(min(self.start_at, self.update_at) - now, TICK)

    def ask(self) -> None:
        """Take in that somebody wants a look for a release now, or after one that is under way."""
        self._asked = True

    def begun(self, verb: str) -> None:
        """Take in that a child was started."""
        if verb == "update":
            self._asked = False

    def ended(self, verb: str, code: int, now: float) -> None:
        """Take in how a child ended and plan the next one."""
        if verb == "verify":
            self.scrub_at = now + SCRUB_EVERY
            if code == IntegrityError.exit_code:  # what is damaged is fetched again
                self.ask()
            return
        if verb == "start":
            if code == 0:
                self._settled_at = now
                self.start_at = float("inf")
            else:
                self.start_at = now + self._start_backoff.delay()
            if code == IntegrityError.exit_code:  # what is damaged is fetched again
                self.ask()
            return
        if code in (SourceError.exit_code, -signal.SIGKILL):
            delay = self._poll_backoff.delay()
            self.update_at = now + min(delay, self.interval) * random.uniform(0.5, 1.0)
        else:
            self._poll_backoff.reset()
            self.update_at = now + self.interval + random.uniform(0, self.jitter)
        if code not in (0, SourceError.exit_code):
            self.trouble(now)

    def trouble(self, now: float) -> None:
        """Take in that a container died or became unhealthy, or that an update failed.

        Where ``start`` is planned already it stays so: a container that goes on crashing must not
        undo the back-off.
        """
        if self.start_at < float("inf"):
            return
        wait = DEBOUNCE
        if now - self._settled_at > BACKOFF_LAST:
            self._start_backoff.reset()
        else:
            wait = max(wait, self._start_backoff.delay())
        self.start_at = now + wait


def notify(message: str) -> None:
    """Tell systemd something (sd_notify(3)); without it nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
        try:
            connection.sendto(message.encode(), address)
        except OSError as error:  # what follows from silence is systemd's to decide
            print(f"composeapps: systemd is not listening: {error}", file=sys.stderr)


def watchdog_interval() -> float:
    """Return the seconds between two signs of life, half of what systemd waits for."""
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 2e6 or TICK


class Supervisor:
    """The loop; ``command`` is what a verb is appended to."""

    def __init__(self, settings: Settings, command: Sequence[str] = ()) -> None:
        self._command = list(command) or [sys.executable, "-m", "composeapps.cli"]
        self._schedule = Schedule(settings.update.interval, settings.update.jitter)
        self._events = EngineEvents(settings.engine.docker)
        self._selector = selectors.DefaultSelector()
        self._schedule.scrub_at = boottime() + SCRUB_FIRST
        self._clean = settings.paths.data / CLEAN
        #: One that works, and one that verifies beside it.
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stop = False
        #: Since when the engine does not answer, 0 while it does; and whether it ever did.
        self._engine_lost = 0.0
        self._engine_known = False
        #: When a container had trouble while a child worked.
        self._troubled = float("-inf")
        self._alive = watchdog_interval()

    def run(self) -> int:
        """Work until SIGTERM or SIGINT; SIGHUP looks for a release at once."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_hangup)
        self._selector.register(reader, selectors.EVENT_READ, lambda: self._drain(reader))
        notify("READY=1")
        while not (self._stop and not self._children):
            notify("WATCHDOG=1")
            self._step(boottime())
        self._events.close()
        _mark_clean(self._clean)
        return 0

    @property
    def _busy(self) -> bool:
        return any(verb != "verify" for verb in self._children)

    def _step(self, now: float) -> None:
        if not self._stop:
            self._watch_engine(now)
            verb = "" if self._busy else self._schedule.due(now)
            if verb:
                self._begin(verb)
            if self._schedule.scrub_at <= now and "verify" not in self._children:
                self._begin("verify")
        wait = min(self._alive, TICK if self._busy else self._schedule.wait(now))
        if not self._events.answers:
            wait = min(wait, ENGINE_RETRY)
        for key, _ in self._selector.select(wait):
            react: Callable[[], None] = key.data
            react()

    def _begin(self, verb: str) -> None:
        argv = [*self._command, verb, FLAGS[verb]]
        child = start(argv, stdout=None, stderr=None, env=_environment())
        self._children[verb] = child
        self._schedule.begun(verb)
        if self._stop:  # the signal came while the child was being started
            child.terminate()
        ends = os.pidfd_open(child.pid)
        self._selector.register(ends, selectors.EVENT_READ, partial(self._reap, verb, ends))

    def _reap(self, verb: str, ends: int) -> None:
        code = self._children.pop(verb).wait()
        self._selector.unregister(ends)
        os.close(ends)
        now = boottime()
        self._schedule.ended(verb, code, now)
        if not self._busy and now - self._troubled < UNSEEN:
            self._schedule.trouble(now)

    def _watch_engine(self, now: float) -> None:
        if self._events.socket is None:
            stream = self._events.connect()
            if stream is not None:
                self._selector.register(stream, selectors.EVENT_READ, self._on_event)
        if self._events.answers:
            return
        if not self._engine_lost:
            self._engine_lost = now
        elif now - self._engine_lost > ENGINE_GRACE:
            self._engine_lost = now
            self._disconnect()
            self._trouble(now)

    def _disconnect(self) -> None:
        if self._events.socket is not None:
            self._selector.unregister(self._events.socket)
        self._events.close()

    def _on_event(self) -> None:
        answered = self._events.answers
        stands, trouble = self._events.read()
        # After a gap nobody knows what was missed.
        trouble = trouble or (self._events.answers and not answered and self._engine_known)
        if self._events.answers:
            self._engine_known, self._engine_lost = True, 0.0
        if not stands:
            self._disconnect()
        if trouble:
            self._trouble(boottime())

    def _trouble(self, now: float) -> None:
        if self._busy:  # our own children stop containers and the engine too
            self._troubled = now
        else:
            self._schedule.trouble(now)

    def _on_stop(self, *_: object) -> None:
        self._stop = True
        for child in self._children.values():
            child.terminate()

    def _on_hangup(self, *_: object) -> None:
        self._schedule.ask()

    @staticmethod
    def _drain(reader: socket.socket) -> None:
        reader.recv(4096)


def _mark_clean(path: Path) -> None:
    if not path.parent.is_dir():  # nothing was ever written
        return
    try:
        path.write_text(boot_id())
    except OSError as error:
        print(f"composeapps: {path}: {error.strerror}", file=sys.stderr)


def _environment() -> dict[str, str]:
    """Return all of ours, proxies and certificates too, but for what only this process may say."""
    ours = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
    return {name: value for name, value in os.environ.items() if name not in ours}
