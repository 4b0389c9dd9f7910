"""Figures, their ratios to stock Docker's and whether they meet their aim: values only, no IO."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: What the columns stand for; the first is ours.
SEALED = "sealed"
CONTAINERD = "containerd store"
CLASSIC = "classic store"
PEERS = (CONTAINERD, CLASSIC)


@dataclass(frozen=True)
class Aim:
    """What a figure has to be at most: a ratio to every peer, or a value of its own."""

    limit: float
    #: False where the limit is a value in the figure's unit.
    ratio: bool = True

    def text(self) -> str:
        """Return the aim as the table shows it."""
        return f"<= {self.limit:g}{'x' if self.ratio else ''}"


@dataclass
class Figure:
    """One measured thing on each side; every run is kept, the median counts."""

    name: str
    unit: str
    runs: dict[str, list[float]]
    aim: Aim | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def median(self, side: str) -> float | None:
        """Return a side's middle value; None where it was not measured."""
        values = self.runs.get(side)
        return statistics.median(values) if values else None

    def spread(self, side: str) -> float | None:
        """Return (largest - smallest) / median of a side; None for less than two runs."""
        values, middle = self.runs.get(side) or [], self.median(side)
        return (max(values) - min(values)) / middle if len(values) > 1 and middle else None

    def ratio(self, peer: str) -> float | None:
        """Return ours divided by a peer's; None where one is missing or the peer's is 0."""
        mine, theirs = self.median(SEALED), self.median(peer)
        return mine / theirs if mine is not None and theirs else None

    def verdict(self) -> str:
        """Return ``met``, ``MISSED``, or nothing where there is no aim.

        Every peer that was measured counts. An aim that was not measured is missed.
        """
        if self.aim is None:
            return ""
        if self.aim.ratio:
            found = [self.ratio(peer) for peer in self.runs if peer != SEALED]
        else:
            found = [self.median(SEALED)]
        known = [value for value in found if value is not None and math.isfinite(value)]
        met = bool(known) and len(known) == len(found) and max(known) <= self.aim.limit
        return "met" if met else "MISSED"

    def to_json(self) -> dict[str, Any]:
        """Return everything that was measured and what follows from it."""
        sides = {
            side: {"runs": values, "median": self.median(side), "spread": self.spread(side)}
            for side, values in self.runs.items()
        }
        return {
            "name": self.name,
            "unit": self.unit,
            "sides": sides,
            "ratios": {peer: self.ratio(peer) for peer in self.runs if peer != SEALED},
            "aim": self.aim.text() if self.aim else None,
            "verdict": self.verdict() or None,
            "detail": dict(self.detail),
        }


def table(figures: Sequence[Figure], peers: Sequence[str] = PEERS) -> str:
    """Return the figures as a table, one line each; ``±`` is half the spread of ours.

    Args:
        peers: the sides that get a column, and beside it our ratio to them.
    """
    heading = ["", "unit", SEALED]
    for peer in peers:
        heading += [peer, "ratio"]
    rows = [[*heading, "aim", ""], *(_row(figure, peers) for figure in figures)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    texts = (0, 1, len(widths) - 2, len(widths) - 1)
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if at in texts else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _row(figure: Figure, peers: Sequence[str]) -> list[str]:
    cells = [figure.name, figure.unit, _number(figure.median(SEALED))]
    spread = figure.spread(SEALED)
    if spread is not None:
        cells[2] += f" ±{spread / 2:.0%}"
    for peer in peers:
        ratio = figure.ratio(peer)
        cells += [_number(figure.median(peer)), "-" if ratio is None else f"{ratio:.2f}"]
    return [*cells, figure.aim.text() if figure.aim else "", figure.verdict()]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
