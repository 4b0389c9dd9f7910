"""The law (L1 to L6) asked of a virtual device, from outside and by the device's own parts.

Shared by the tests and the campaign of power cuts. What is asked inside is ``qemu/guest/ask.py``,
which imports nothing of composeapps.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmworld import Server
from world import REGISTRY

from channel import MachineError
from vm import Machine

ASK = "/run/composeapps-test/ask"
ASK_FILE = (Path(__file__).resolve().parent.parent / "qemu/guest/ask.py").read_bytes()
#: Seconds from power-on; a machine that others use as well has taken 270.
HEALTHY_WITHIN = 900.0
#: States in which an update has ended.
ENDED = ("committed", "failed")


@dataclass
class Verdict:
    """What the law says of one device at one moment."""

    #: Seconds from power-on until all apps were healthy; 0 where they never were.
    healthy_after: float
    broken: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def ask(machine: Machine, *words: str, timeout: float = 700.0) -> Any:
    """Run ``ask.py`` in the guest and return its JSON."""
    return json.loads(machine.run(ASK, *words, timeout=timeout).out)


def wait(machine: Machine, seconds: float, verb: str, *words: str) -> bool:
    """Have ``ask.py`` wait for so many seconds of this machine's clock; say whether it came.

    A guest that was booted on a busy machine may take its own clock for several times slower than
    it is, so that it waits for too short a time.
    """
    deadline = time.monotonic() + seconds
    while True:
        left = max(1.0, deadline - time.monotonic())
        found = machine.run(ASK, verb, str(left), *words, check=False, timeout=left + 60)
        if found.code == 0 or time.monotonic() >= deadline:
            return found.code == 0
        time.sleep(1)


def judge(
    machine: Machine, fsynced: list[str], trusted: set[str], within: float = HEALTHY_WITHIN
) -> Verdict:
    """Wait until a device is healthy and ask L1, L2, L3, L5, L6, and of L4 what can be asked now.

    Args:
        fsynced: lines that app ``a`` is known to have fsynced into its volume.
        trusted: references of all images of releases that were ever signed.
        within: seconds from power-on.
    """
    try:
        machine.wait_for_channel(within)
        well = wait(machine, within - machine.seconds, "healthy")
        verdict = Verdict(machine.seconds)
        well = well and wait(machine, within - machine.seconds, "settled")
        facts = verdict.facts = ask(machine, "law")
        if not well:
            said = ", ".join(facts["containers"]) or "no container"
            said = f"{said}; releases: {facts['releases']}"
            verdict.broken.append(f"L1: not healthy after {machine.seconds:.0f} s: {said}")
            verdict.healthy_after = 0.0
    except MachineError as error:
        return Verdict(0.0, [f"L1: {error}"])
    if verdict.healthy_after and not facts["healthy"]:
        verdict.broken.append("L1: healthy, then not")
    verdict.broken += [f"L2: {path} has wrong bytes" for path in facts["damaged"]]
    lines = facts["volumes"].get("a_data/_data/log", "").split("\n")
    verdict.broken += [f"L3: the volume lost {line!r}" for line in fsynced if line not in lines]
    verdict.broken += [f"L5: listens: {line}" for line in facts["listening"]]
    verdict.broken += [f"L6: runs {image}" for image in facts["images"] if image not in trusted]
    running = [version for version, state in facts["releases"] if state == "starting"]
    if len(running) > 1:
        verdict.broken.append(f"L4: several releases are being started: {running}")
    return verdict


def judge_outcome(facts: dict[str, Any], version: int, server: Server) -> list[str]:
    """Ask L4 of an update that has ended: its end, its event, the report, one id."""
    broken = []
    states = dict(facts["releases"])
    if states.get(version) not in ENDED:
        broken.append(f"L4: release {version} is {states.get(version)}")
    mine = [
        row for row in facts["events"]
        if row[1] in ENDED and json.loads(row[2]).get("version") == version
    ]  # fmt: skip
    if len(mine) != 1:
        broken.append(f"L4: release {version} has {len(mine)} outcomes")
    reported = {event["id"] for event in server.events}
    broken += [f"L4: outcome {row[0]} was not reported" for row in mine if row[0] not in reported]
    return broken


def images_of(site: Path) -> set[str]:
    """Return the references of all images that a site's artifacts name."""
    found = set()
    for path in (site / "oci/blobs/sha256").iterdir():
        text = path.read_bytes()
        if path.stat().st_size < 10_000 and f"image: {REGISTRY}".encode() in text:
            found |= {
                line.split("image: ", 1)[1].strip()
                for line in text.decode().splitlines()
                if "image: " in line
            }
    return found
