"""Runs once before the others and keeps the volume bounded: a large record becomes the archive."""

import os
from pathlib import Path

FILE = Path("/data/telemetry.jsonl")
ARCHIVE = Path("/data/telemetry.old.jsonl")
#: Bytes.
LIMIT = 64 * 1024 * 1024


def main():
    """Put a large record aside."""
    size = FILE.stat().st_size if FILE.exists() else 0
    if size > LIMIT:
        FILE.replace(ARCHIVE)
        directory = os.open(FILE.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
    print(f"the record holds {size} bytes", flush=True)


if __name__ == "__main__":
    main()
