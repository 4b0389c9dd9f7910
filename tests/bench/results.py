"""What is measured, in the order of the table, and where measurements are collected."""

from __future__ import annotations

import statistics
from typing import Any

from bench.figures import CONTAINERD, SEALED, Aim, Figure

MB = 1e6
TOOL = "gzip | mkfs"

WRITTEN, SPACE = Aim(0.7), Aim(0.45)
#: key: name, unit, aim. Sources of the aims: the project's own, they were set beforehand.
COMPARED: dict[str, tuple[str, str, Aim | None]] = {
    "first.wire": ("first install: wire", "MB", None),
    "first.written": ("first install: written", "MB", WRITTEN),
    "first.used": ("first install: space", "MB", SPACE),
    "first.seconds": ("first install: to healthy", "s", None),
    "update.wire": ("update: wire", "MB", None),
    "update.written": ("update: written", "MB", WRITTEN),
    "update.seconds": ("update: to healthy", "s", None),
    "both.written": ("install and update: written", "MB", WRITTEN),
    "both.used": ("install and update: space", "MB", SPACE),
    "downtime": ("update: web service away", "s", Aim(1.0)),
    "preloaded.seconds": ("preloaded: first start to healthy", "s", Aim(0.3)),
    "preloaded.written": ("preloaded: written", "MB", None),
    "preloaded.used": ("preloaded: space besides it", "MB", None),
    "lost.seconds": ("engine store lost: to healthy", "s", Aim(0.5)),
    "lost.written": ("engine store lost: written", "MB", None),
    "lost.together": ("  its peers start apps together", "s", None),
    "bare.seconds": ("images there, containers gone: to healthy", "s", None),
    "preloaded.more": ("preloaded: seconds more than that", "s", None),
    "lost.more": ("engine store lost: seconds more", "s", None),
    "large.preloaded.seconds": ("preloaded, 96 MiB more: to healthy", "s", Aim(0.3)),
    "large.lost.seconds": ("store lost, 96 MiB more: to healthy", "s", Aim(0.5)),
    "check.wire": ("no-change check: wire, TLS apart", "bytes", Aim(4096, ratio=False)),
    "check.tls": ("no-change check: wire, with TLS", "bytes", None),
    "check.cpu": ("no-change check: CPU", "s", None),
    "start.cold": ("container to its end, cold", "s", None),
    "start.warm": ("container to its end, warm", "s", None),
    "sequential.cold": ("sequential read, cold", "MB/s", None),
    "sequential.warm": ("sequential read, warm", "MB/s", None),
    "random.cold": ("random 4 KiB reads, cold", "MB/s", None),
    "random.warm": ("random 4 KiB reads, warm", "MB/s", None),
    "memory.idle": ("composeapps run, idle: PSS", "MB", Aim(16, ratio=False)),
    "memory.agent": ("update: the agent's peak PSS", "MB", None),
    "memory.all": ("update: with all children", "MB", None),
    "memory.sealing": ("update: while mkfs.erofs runs", "MB", Aim(200, ratio=False)),
}
SEALING: dict[str, tuple[str, str, Aim | None]] = {
    "seal.seconds": ("sealing a 260 MB layer", "s", Aim(1.3)),
    "seal.size": ("its size", "MB", None),
    "seal.peak": ("peak memory of who seals", "MB", Aim(200, ratio=False)),
    "seal.mkfs": ("peak memory of mkfs.erofs", "MB", None),
}


class Results:
    """All measurements of a run."""

    def __init__(self) -> None:
        self._figures = {
            key: Figure(name, unit, {}, aim)
            for key, (name, unit, aim) in {**COMPARED, **SEALING}.items()
        }

    def add(self, key: str, side: str, value: float, **detail: Any) -> None:
        """Keep one run of one figure; ``detail`` is kept with the newest."""
        figure = self._figures[key]
        figure.runs.setdefault(side, []).append(value)
        if detail:
            figure.detail = {**figure.detail, side: detail}

    def __contains__(self, key: str) -> bool:
        return key in self._figures

    def compared(self) -> list[Figure]:
        """Return the figures beside stock Docker that were measured."""
        return [self._figures[key] for key in COMPARED if self._figures[key].runs]

    def sealing(self) -> list[Figure]:
        """Return the figures beside ``gzip -dc | mkfs.erofs`` that were measured."""
        return [self._figures[key] for key in SEALING if self._figures[key].runs]

    def finish(self) -> None:
        """Work out what is a sum of other figures."""
        sides = set(self._figures["update.written"].runs)
        for side in sides:
            parts = [self._figures[f"{step}.written"].runs[side][0] for step in ("first", "update")]
            self.add("both.written", side, sum(parts))
        self._take_away_what_starting_takes()
        lost = self._figures["lost.seconds"].runs
        if SEALED in lost and CONTAINERD in self._figures["lost.together"].runs:
            self._figures["lost.together"].runs[SEALED] = list(lost[SEALED])

    def _take_away_what_starting_takes(self) -> None:
        """Starting containers is the engine's and Compose's, whoever has brought their images."""
        for side, bare in self._figures["bare.seconds"].runs.items():
            for part in ("preloaded", "lost"):
                seconds = self._figures[f"{part}.seconds"].runs.get(side, [])
                for value in seconds:
                    self.add(f"{part}.more", side, value - statistics.median(bare))
