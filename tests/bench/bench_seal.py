"""Sealing against ``gzip -dc | mkfs.erofs``: the same layer, options and file system, in turns.

    python tests/bench/bench_seal.py [--runs N] [--json FILE]

The layer is the engine tree's own files, some 260 MB. The peer gets what sealing gives mkfs.erofs
for options; it only makes a file system of the tar as it is, which is not the engine's tree.
Prints a table; ``--json`` keeps every run. Peak memory is that of the process that seals.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "qemu")]

from mkfs import directory_with_mkfs  # noqa: E402 - needs the path above

from composeapps.erofstool import command  # noqa: E402
from tree import tree  # noqa: E402

WAYS = ("lz4hc", "lz4", "none")
SEAL = """
import json, resource, sys
from pathlib import Path
from composeapps.config import SealSettings
from composeapps.seal import seal
blob, diff_id, output, way = sys.argv[1:]
settings = SealSettings(compression=way)
sealed = seal(lambda: open(blob, "rb"), diff_id, [], Path(output), settings)
# VmHWM: ru_maxrss would begin with what the process that started this one had.
high = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
peak = [int(high.split()[1]) * 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]
print(json.dumps({"size": sealed.size, "unpacked": sealed.unpacked, "entries": sealed.entries,
                  "rss": peak[0], "mkfs_rss": peak[1]}))
"""


def make_layer(directory: Path) -> tuple[Path, str]:
    """Pack the tree's files as a gzip layer; return blob and diff ID."""
    plain, blob = directory / "layer.tar", directory / "layer.tar.gz"
    names = ("proc", "sys", "dev", "run", "tmp", "usr/sbin", "usr/libexec")
    exclude = [f"--exclude=./{name}" for name in names]
    subprocess.run(["tar", "-C", tree(), *exclude, "-cf", plain, "."], check=True)
    with plain.open("rb") as file:
        diff_id = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    with blob.open("wb") as file:
        subprocess.run(["gzip", "-6", "-c", plain], stdout=file, check=True)
    plain.unlink()
    return blob, diff_id


def run_seal(blob: Path, diff_id: str, output: Path, way: str) -> dict[str, Any]:
    """Seal in a process of its own; return seconds, bytes and peak memory."""
    started = time.monotonic()
    arguments = [str(blob), diff_id, str(output), way]
    printed = subprocess.check_output([sys.executable, "-c", SEAL, *arguments])
    result: dict[str, Any] = json.loads(printed)
    return result | {"seconds": time.monotonic() - started}


def run_peer(blob: Path, diff_id: str, output: Path, way: str) -> dict[str, Any]:
    """Let mkfs.erofs make what it makes of the tar alone."""
    started = time.monotonic()
    with subprocess.Popen(["gzip", "-dc", blob], stdout=subprocess.PIPE) as gzip:
        subprocess.run(command(diff_id, output, way), stdin=gzip.stdout, check=True)
    seconds = time.monotonic() - started
    return {"size": output.stat().st_size, "seconds": seconds}


def run(directory: Path, runs: int, ways: Sequence[str] = WAYS) -> list[dict[str, Any]]:
    """Measure with the device tree's ``mkfs.erofs``; return one record for each run."""
    os.environ["PATH"] = f"{directory_with_mkfs(directory)}:{os.environ['PATH']}"
    return measure(directory, runs, ways)


def measure(directory: Path, runs: int, ways: Sequence[str]) -> list[dict[str, Any]]:
    """Run both in turns, and once before to warm the cache."""
    blob, diff_id = make_layer(directory)
    output = directory / "output.erofs"
    rows = []
    for way in ways:
        for number in range(runs + 1):
            for name, work in (("seal", run_seal), ("peer", run_peer)):
                result = work(blob, diff_id, output, way)
                output.unlink()
                os.sync()
                if number:
                    rows.append({"way": way, "name": name, "run": number, **result})
    return rows


def median(rows: list[dict[str, Any]], way: str, name: str, key: str) -> float:
    """Return the middle value of one measure."""
    values = [float(row[key]) for row in rows if (row["way"], row["name"]) == (way, name)]
    return statistics.median(values)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one line for each way of storing data."""
    lines = []
    for way in WAYS:
        seconds = {name: median(rows, way, name, "seconds") for name in ("seal", "peer")}
        lines.append(
            {
                "way": way,
                "seal_s": seconds["seal"],
                "peer_s": seconds["peer"],
                "ratio": seconds["seal"] / seconds["peer"],
                "seal_mb": median(rows, way, "seal", "size") / 1e6,
                "peer_mb": median(rows, way, "peer", "size") / 1e6,
                "peak_mb": median(rows, way, "seal", "rss") / 1e6,
                "mkfs_peak_mb": median(rows, way, "seal", "mkfs_rss") / 1e6,
            }
        )
    return lines


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="composeapps-bench-", dir="/var/tmp"))
    try:
        rows = run(directory, arguments.runs)
    finally:
        shutil.rmtree(directory)
    lines = summary(rows)
    sample = next(row for row in rows if row["name"] == "seal")
    print(f"one layer: {sample['unpacked'] / 1e6:.0f} MB, {sample['entries']} entries, gzip -6")
    print("        seal s  gzip|mkfs s  ratio   seal MB  gzip|mkfs MB  peak MB  mkfs peak MB")
    for line in lines:
        print(
            f"{line['way']:6} {line['seal_s']:7.2f} {line['peer_s']:12.2f} {line['ratio']:6.2f}"
            f" {line['seal_mb']:9.1f} {line['peer_mb']:13.1f} {line['peak_mb']:8.0f}"
            f" {line['mkfs_peak_mb']:13.0f}"
        )
    if arguments.json:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        document = {"summary": lines, "runs": rows, "bench_rss": own}
        arguments.json.write_text(json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
