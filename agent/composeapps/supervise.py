"""The resident part: a clock, the engine's events, the watchdog, and short-lived children.

Kept tiny: standard library only, nothing heavy is ever imported here (measured on CPython: a bare
interpreter takes 10 MB, with docker, tuf and yaml 47). All work is done by children, ``composeapps
start`` and ``composeapps update``; what they left undone is done by the next one.
"""

from __future__ import annotations

import json
import os
import random
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from composeapps.config import Settings
from composeapps.errors import ConfigError, SourceError
from composeapps.process import start

#: Seconds; the longest sleep, so that a wake-up from suspend is noticed.
TICK = 30.0
#: Seconds between a container's trouble and the look at it: a restart policy goes first.
DEBOUNCE = 10.0
#: Seconds; back-off of mending and of polling after an error doubles from the first to the second.
BACKOFF_FIRST, BACKOFF_LAST = 15.0, 900.0
#: Seconds without an answer of the engine before ``start`` is sent to mend it.
ENGINE_GRACE = 20.0
#: Seconds between two tries to connect to an engine that does not answer.
ENGINE_RETRY = 2.0
#: What a person stopped stays so.
FLAGS = ("--unless-stopped",)
_ACCEPTED = re.compile(rb"HTTP/1\.[01] 200 ")
_EVENTS = {"type": ["container"], "event": ["die", "health_status", "destroy", "oom"]}


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
        if verb == "start":
            if code == 0:
                self._settled_at = now
                self.start_at = float("inf")
            else:
                self.start_at = now + self._start_backoff.delay()
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


class EngineEvents:
    """Docker's event stream, read from its socket without any library."""

    def __init__(self, url: str) -> None:
        if not url.startswith("unix://"):
            raise ConfigError(f"engine.docker has to be a unix:// address, not {url}")
        self._path = url.removeprefix("unix://")
        self.socket: socket.socket | None = None
        #: The engine said that the events follow; one that only accepts may hang.
        self.answers = False
        self._buffer = b""

    def connect(self) -> socket.socket | None:
        """Open the stream and return its socket; None where the engine is not there."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(5.0)  # a live engine accepts at once
        query = quote(json.dumps(_EVENTS))
        request = f"GET /events?filters={query} HTTP/1.0\r\nHost: docker\r\n\r\n"
        try:
            connection.connect(self._path)
            connection.sendall(request.encode())
        except OSError:
            connection.close()
            return None
        connection.setblocking(False)
        self.socket, self.answers, self._buffer = connection, False, b""
        return connection

    def close(self) -> None:
        """Forget the connection."""
        if self.socket is not None:
            self.socket.close()
        self.socket, self.answers = None, False

    def read(self) -> tuple[bool, bool]:
        """Take what has come: (the stream still stands, something in it means trouble)."""
        assert self.socket is not None, "read follows connect"
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return True, False
        except OSError:
            data = b""
        if not data:
            return False, False
        lines = (self._buffer + data).split(b"\n")
        self._buffer = lines.pop()[-65536:]
        self.answers = self.answers or any(_ACCEPTED.match(line) for line in lines)
        return True, any(_is_trouble(line) for line in lines)


def _is_trouble(line: bytes) -> bool:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):  # HTTP's own header lines
        return False
    actor = event.get("Actor") if isinstance(event, dict) else None
    attributes = actor.get("Attributes") if isinstance(actor, dict) else None
    if not isinstance(attributes, dict) or "com.docker.compose.project" not in attributes:
        return False
    action = str(event.get("Action", ""))
    return not action.startswith("health_status") or action.endswith("unhealthy")


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
        self._child: tuple[str, subprocess.Popen[bytes]] | None = None
        self._child_fd = -1
        self._stop = False
        #: Since when the engine does not answer, 0 while it does; and whether it ever did.
        self._engine_lost = 0.0
        self._engine_known = False
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
        while not (self._stop and self._child is None):
            notify("WATCHDOG=1")
            self._step(boottime())
        self._events.close()
        return 0

    def _step(self, now: float) -> None:
        if not self._stop:
            self._watch_engine(now)
            verb = "" if self._child else self._schedule.due(now)
            if verb:
                self._begin(verb)
        wait = min(self._alive, TICK if self._child else self._schedule.wait(now))
        if not self._events.answers:
            wait = min(wait, ENGINE_RETRY)
        for key, _ in self._selector.select(wait):
            react: Callable[[], None] = key.data
            react()

    def _begin(self, verb: str) -> None:
        child = start([*self._command, verb, *FLAGS], stdout=None, stderr=None, env=_environment())
        self._child = (verb, child)
        self._schedule.begun(verb)
        if self._stop:  # the signal came while the child was being started
            child.terminate()
        self._child_fd = os.pidfd_open(child.pid)
        self._selector.register(self._child_fd, selectors.EVENT_READ, self._reap)

    def _reap(self) -> None:
        assert self._child is not None, "a child's end is seen once"
        verb, child = self._child
        code = child.wait()
        self._selector.unregister(self._child_fd)
        os.close(self._child_fd)
        self._child = None
        self._schedule.ended(verb, code, boottime())

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
        if self._child is None:  # our own children stop containers and the engine too
            self._schedule.trouble(now)

    def _on_stop(self, *_: object) -> None:
        self._stop = True
        if self._child is not None:
            self._child[1].terminate()

    def _on_hangup(self, *_: object) -> None:
        self._schedule.ask()

    @staticmethod
    def _drain(reader: socket.socket) -> None:
        reader.recv(4096)


def _environment() -> dict[str, str]:
    """Return all of ours, proxies and certificates too, but for what only this process may say."""
    ours = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
    return {name: value for name, value in os.environ.items() if name not in ours}


def boottime() -> float:
    """Return seconds since boot, time asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
