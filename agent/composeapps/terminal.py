"""Progress and tables: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence

#: Seconds between two redraws of a bar, and between two plain lines of one download.
_REDRAW, _LINE = 0.1, 10.0
_WIDTH = 24


def progress() -> Callable[[str, str, int, int], None]:
    """Return what ``fetch`` tells its progress to; it writes to stderr."""
    return _Progress(sys.stderr.isatty())


class _Progress:
    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal
        self._done: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._last = 0.0
        self._lock = threading.Lock()

    def __call__(self, doing: str, digest: str, count: int, size: int) -> None:
        with self._lock:
            if doing == "downloading":
                self._sizes[digest] = size
                self._done[digest] = self._done.get(digest, 0) + count
                self._show()
            else:
                self._line(f"{doing} {digest[7:19]} ({size} bytes)")

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._last < (_REDRAW if self._terminal else _LINE):
            return
        self._last = now
        done, size = sum(self._done.values()), sum(self._sizes.values())
        share = done / size if size else 1.0
        if self._terminal:
            bar = "#" * int(share * _WIDTH)
            sys.stderr.write(f"\r[{bar:<{_WIDTH}}] {share:4.0%} {done}/{size} bytes\x1b[K")
            sys.stderr.flush()
        else:
            self._line(f"downloaded {done} of {size} bytes")

    def _line(self, text: str) -> None:
        sys.stderr.write(("\r\x1b[K" if self._terminal else "") + text + "\n")
        sys.stderr.flush()


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under a heading, columns aligned."""
    widths = [max(len(row[i]) for row in [heading, *rows]) for i in range(len(heading))]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [heading, *rows]
    ]
    return "\n".join(lines)
