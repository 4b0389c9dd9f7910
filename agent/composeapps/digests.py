"""The digest of a file of any size, and a copy that has it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from composeapps.errors import IntegrityError

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


def copy_verified(source: Path, output: BinaryIO, digest: str) -> None:
    """Copy a file's bytes; raises IntegrityError where they are not what the digest says."""
    hasher = hashlib.sha256()
    try:
        with source.open("rb", buffering=0) as file:
            while chunk := _read(file, source):
                hasher.update(chunk)
                output.write(chunk)
    except FileNotFoundError as error:
        raise IntegrityError(f"{source} is missing") from error
    if f"sha256:{hasher.hexdigest()}" != digest:
        raise IntegrityError(f"{source} is damaged")


def _read(file: BinaryIO, source: Path) -> bytes:
    try:
        return file.read(CHUNK)
    except OSError as error:
        raise IntegrityError(f"{source} cannot be read: {error.strerror}") from error
