"""Memory of a process with all that it starts, as proportional set size (PSS; Linux, proc(5))."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds between two looks; one costs about a millisecond a process.
PERIOD = 0.03


@dataclass
class Peaks:
    """The largest sums that were seen, bytes, and what they were made of."""

    #: The process that was looked at, and all its descendants together.
    agent: int = 0
    everything: int = 0
    #: Everything while ``mkfs.erofs`` ran.
    sealing: int = 0
    made_of: dict[str, int] = field(default_factory=dict)


class Sampler:
    """Looks at a process and its descendants until closed; a context manager."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.peaks = Peaks()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._look()
            time.sleep(PERIOD)

    def _look(self) -> None:
        sizes = {pid: pss(pid) for pid in [self._pid, *descendants(self._pid)]}
        names = {pid: name(pid) for pid, size in sizes.items() if size}
        total = sum(sizes.values())
        agents = [size for pid, size in sizes.items() if names.get(pid, "").startswith("python")]
        self.peaks.agent = max(self.peaks.agent, *agents, 0)
        if "mkfs.erofs" in names.values():
            self.peaks.sealing = max(self.peaks.sealing, total)
        if total > self.peaks.everything:
            self.peaks.everything = total
            made: dict[str, int] = {}
            for pid, program in names.items():
                made[program] = made.get(program, 0) + sizes[pid]
            self.peaks.made_of = made


def pss(pid: int) -> int:
    """Return a process's PSS in bytes; 0 for one that has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    lines = [line for line in text.splitlines() if line.startswith("Pss:")]
    return int(lines[0].split()[1]) * 1024 if lines else 0


def name(pid: int) -> str:
    """Return a process's short name; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descendants(pid: int) -> list[int]:
    """Return the process IDs of all that a process has started, directly or not."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in path.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found
