"""The digest of a file of any size."""

from __future__ import annotations

import hashlib
from pathlib import Path

#: Bytes of one read.
CHUNK = 1024 * 1024


def file_digest(path: Path) -> str:
    """Return the digest of a file of any size; raises OSError where the medium fails."""
    hasher = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(CHUNK)
        while count := file.readinto(buffer):
            hasher.update(memoryview(buffer)[:count])
    return f"sha256:{hasher.hexdigest()}"
