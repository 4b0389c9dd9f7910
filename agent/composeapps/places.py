"""What a place to fetch from looks like: a registry, a mirror, an OCI layout on a server or disk.

Nothing here, and no place, is trusted: whoever reads checks digest and size.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from typing import Literal, Protocol

from composeapps.oci import Reference

Kind = Literal["manifest", "blob"]


@dataclass(frozen=True)
class Wanted:
    """One piece of content, and what getting it may cost."""

    reference: Reference
    digest: str
    kind: Kind
    #: Bytes that may come, counted from the content's first; the exact size where ``exact``.
    limit: int
    exact: bool = False
    #: Bytes that are there already.
    offset: int = 0
    #: Time of ``time.monotonic`` at which waiting ends.
    deadline: float = math.inf
    stop: threading.Event = field(default_factory=threading.Event)


class Stream(Protocol):
    """Content that comes in pieces."""

    #: Where in the content the first piece belongs: as asked for, or 0.
    offset: int

    def read(self, amount: int) -> bytes:
        """Return up to ``amount`` bytes as they come, nothing at the end; raises SourceError."""

    def close(self) -> None:
        """Give the connection or file back."""


class Place(Protocol):
    """Somewhere content may be."""

    #: What messages call it.
    name: str

    def open(self, wanted: Wanted) -> Stream:
        """Start to read content; raises NotFoundError or another SourceError."""
