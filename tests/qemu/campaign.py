"""``make power-cut N=60``: cuts a device's power at random moments of updates, and asks the law.

``PEER=1`` does the same to a device with stock Docker and Compose. Every trial begins at the same
snapshot, a healthy device with release 1. Results are added to ``build/power-cut/<side>.jsonl`` one
by one, so that a campaign that was interrupted goes on; the report beside them, which shows all
sides, is written anew after each. A broken law ends nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT / "qemu"), str(ROOT / "agent")]

import campaignreport  # noqa: E402 - all of them need the path above
import campaignsides  # noqa: E402
import vmlaw  # noqa: E402
import vmpeer  # noqa: E402
from campaignside import Side  # noqa: E402

PLACE = ROOT / "build" / "power-cut"


def main() -> int:
    """Run a campaign, or one trial of it again."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("count", type=int, help="trials in all, earlier ones included")
    parser.add_argument("--seed", default=os.environ.get("SEED") or "1")
    parser.add_argument("--only", type=int, help="do this trial again and nothing else")
    parser.add_argument("--peer", choices=vmpeer.STORES, help="stock Docker with this store")
    parser.add_argument("--within", type=float, default=vmlaw.HEALTHY_WITHIN, metavar="SECONDS",
                        help="healthy after power-on; %(default)g by default")  # fmt: skip
    parser.add_argument("--place", type=Path, default=PLACE)
    arguments = parser.parse_args()
    arguments.place.mkdir(parents=True, exist_ok=True)
    sides = campaignsides.sides(arguments.place, arguments.within)
    side = next(side for side in sides if side.name == (arguments.peer or sides[0].name))
    if arguments.only is not None:
        side.prepare()
        again = asdict(side.trial(arguments.only, arguments.seed))
        print(json.dumps(again, indent=1))
        return 1 if again["broken"] else 0
    run(side, sides, arguments.count, arguments.seed, arguments.place / "report.html")
    print(f"report: {arguments.place / 'report.html'}")
    return 1 if any(record["broken"] for record in done(side.records, arguments.seed)) else 0


def run(side: Side, sides: list[Side], count: int, seed: str, report: Path) -> None:
    """Do the trials that are not done yet and write the report after each."""
    have = {record["number"] for record in done(side.records, seed)}
    left = [number for number in range(count) if number not in have]
    if left:
        side.prepare()
    for number in left:
        trial = side.trial(number, seed)
        print(
            f"{number}: {trial.state}, healthy {trial.healthy_after} s, {trial.broken}", flush=True
        )
        with side.records.open("a") as file:
            file.write("\n" + json.dumps(asdict(trial)))
        write(report, sides, seed)
    write(report, sides, seed)


def write(report: Path, sides: list[Side], seed: str) -> None:
    """Write the report of all sides that have been tried."""
    shown = [
        campaignreport.Shown(side.title, side.options, found, side.timeline)
        for side in sides
        if (found := done(side.records, seed)) or side is sides[0]
    ]
    report.write_text(campaignreport.render(shown))


def done(path: Path, seed: str) -> list[dict[str, Any]]:
    """Return the trials of a seed by number; a line that a killed campaign left half is none."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if record["seed"] == f"{seed}:{record['number']}":
                found[record["number"]] = record
    return [found[number] for number in sorted(found)]


if __name__ == "__main__":
    sys.exit(main())
