"""Sealed layers beside stock Docker: the same images, disk, registry and gate, in one run.

    python tests/bench/bench.py [--runs N] [--only PART]... [--json FILE]

Each side has a testbed of its own (the same tree and engine, a fresh ext4 image each) and goes
through the same parts. Prints tables with ratios and aims; every run is kept in
``build/bench.json``. docs/benchmarks.md says how to read it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE.parent), str(ROOT / "qemu")]

from bench import bench_seal, parts, published  # noqa: E402 - needs the path above
from bench.figures import Figure, table  # noqa: E402
from bench.results import TOOL, Results  # noqa: E402
from bench.sides import Classic, Sealed, Side, Stock  # noqa: E402

BULK_SIZE = 96 * 1024 * 1024
#: In this order: each needs what those before it have left.
PARTS = (
    "install",
    "downtime",
    "check",
    "preloaded",
    "lost",
    "bare",
    "large",
    "reading",
    "memory",
    "seal",
)


def run_side(side: Side, results: Results, wanted: set[str], runs: int, scratch: Path) -> None:
    """Do all parts on one side."""
    work: dict[str, Callable[[], None]] = {
        "install": lambda: parts.install_and_update(side, results),
        "downtime": lambda: parts.downtime(side, results, 2 * ((runs + 1) // 2)),
        "check": lambda: parts.check(side, results, scratch / "check", runs),
        "preloaded": lambda: parts.preloaded(side, results, runs),
        "lost": lambda: parts.lost(side, results, runs),
        "bare": lambda: parts.bare(side, results, runs),
        "large": lambda: parts.large(side, results, runs),
        "reading": lambda: parts.reading(side, results, runs),
    }
    with side:
        for name, do in work.items():
            if name in wanted or name == "install":  # the others stand on it
                _tell(f"{side.name}: {name}")
                do()
        if "memory" in wanted and isinstance(side, Sealed):
            _tell(f"{side.name}: memory")
            parts.footprint(side, results)


def seal(results: Results, directory: Path, runs: int) -> None:
    """Compare sealing with what gzip and mkfs.erofs take for the same layer."""
    _tell("sealing")
    for row in bench_seal.run(directory, runs, ways=("lz4hc",)):
        side = "sealed" if row["name"] == "seal" else TOOL
        results.add("seal.seconds", side, row["seconds"])
        results.add("seal.size", side, row["size"] / 1e6)
        if row["name"] == "seal":
            results.add("seal.peak", side, row["rss"] / 1e6)
            results.add("seal.mkfs", side, row["mkfs_rss"] / 1e6)


def _tell(text: str) -> None:
    print(f"[{time.monotonic() - _BEGUN:5.0f} s] {text}", file=sys.stderr, flush=True)


_BEGUN = time.monotonic()


def machine() -> dict[str, Any]:
    """Return what figures depend on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.machine(),
    )  # fmt: skip
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "suite": os.environ.get("ENGINE") or "trixie",
    }


def report(results: Results, about: dict[str, Any]) -> str:
    """Return everything that a person wants to read."""
    missed = [f for f in [*results.compared(), *results.sealing()] if f.verdict() == "MISSED"]
    lines = [
        f"{about['date']}, {about['cores']} x {about['cpu']}, Linux {about['kernel']}, engine of "
        f"{about['suite']}, load {about['load'][0]} to {about['load'][1]}",
        "",
        *([table(results.compared()), ""] if results.compared() else []),
        *([table(results.sealing(), (TOOL,)), ""] if results.sealing() else []),
        _verdict(missed),
    ]
    if max(about["load"]) > float(about["cores"] or 1):
        lines.append("The machine was busy: seconds are too many, ratios are rough.")
    return "\n".join(lines)


def _verdict(missed: list[Figure]) -> str:
    return f"missed: {'; '.join(f.name for f in missed)}" if missed else "all aims are met"


def main() -> int:
    """Measure all sides, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="of each timed part")
    parser.add_argument("--only", action="append", choices=PARTS, default=[])
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json")
    options = parser.parse_args()
    wanted = set(options.only or PARTS)
    results, about = Results(), machine()
    loads = [os.getloadavg()[0]]
    directory = Path(tempfile.mkdtemp(prefix="composeapps-bench-", dir="/var/tmp"))
    try:
        if wanted != {"seal"}:
            _tell("making the registry")
            published.publish_images(directory / "registry", BULK_SIZE)
            for kind in (Sealed, Stock, Classic):
                place = directory / kind.__name__
                run_side(kind(place, directory / "registry"), results, wanted, options.runs, place)
                shutil.rmtree(place, ignore_errors=True)
                loads.append(os.getloadavg()[0])
            results.finish()
        if "seal" in wanted:
            seal(results, directory, options.runs)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    about |= {"load": [min(loads), max(loads)], "seconds": round(time.monotonic() - _BEGUN)}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    figures = [f.to_json() for f in [*results.compared(), *results.sealing()]]
    options.json.write_text(json.dumps({"machine": about, "figures": figures}, indent=1) + "\n")
    print(report(results, about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
