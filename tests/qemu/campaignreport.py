"""A campaign's report: one HTML file with tables and pictures, nothing from outside."""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM = 960, 320, 60, 40
#: Where a trial is shown whose apps were never healthy.
NEVER = 26
COLOURS = ("#e8eef7", "#f5f0e1", "#e6f4ea", "#f3e8f5", "#e1f3f5", "#f7e9e8")
STYLE = """\
body { font: 15px sans-serif; margin: 2em; max-width: 70em }
table { border-collapse: collapse } td, th { padding: .2em .7em; text-align: left }
tr:nth-child(even) { background: #f4f4f4 } .broken, .broken td { background: #fbd5d5; color: #900 }
svg text { font: 12px sans-serif }
"""
ABOUT = """\
<p>Each trial: a healthy device with release 1 looks for a release, its power goes, once or more
often; it boots, offline, and the law is asked; then the network is back, and the update has to end.
All sides have the same kernel, engine, disk and data partition, and trials of one number have
the same release, number of cuts and moments, as a share of their own update's time.
What the device had not sent to its disk is lost at each cut; of what it had sent and not flushed, a
part is lost, reordered or torn by the seed (the writes that the tables count).
One release in five is bad: it never gets healthy. Laws: L1 healthy within the bound, L2 no wrong
bytes, L3 volumes, L4 the update ends (good: it runs, bad: the one before runs), L5 nothing listens.
L6 and the report of the outcome are asked of composeapps only: stock Docker has neither.
A unit that stock Docker's device runs at boot does <code>docker-compose pull &amp;&amp;
docker-compose up -d</code>, and again after 10 s where that fails.</p>
"""


@dataclass(frozen=True)
class Shown:
    """What there is to show of one side."""

    title: str
    #: Words that the replaying command has besides seed and number.
    options: str
    trials: Sequence[Mapping[str, Any]]
    #: Seconds and states of an update that nobody disturbed.
    timeline: Sequence[tuple[float, str]]


def render(sides: Sequence[Shown]) -> str:
    """Return the report, with the sides' figures beside each other."""
    columns = [_figures(side.trials) for side in sides]
    head = "".join(f"<th>{html.escape(side.title)}</th>" for side in sides)
    rows = "".join(
        f"<tr><td>{name}</td>{''.join(f'<td>{column[name]}</td>' for column in columns)}</tr>\n"
        for name in columns[0]
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Power cuts</title>'
        f"<style>{STYLE}</style><h1>Power cuts</h1>{ABOUT}"
        f"<table><tr><th></th>{head}</tr>\n{rows}</table>{''.join(map(_side, sides))}</html>\n"
    )


def _figures(trials: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    broken = [trial for trial in trials if trial["broken"]]
    times = [float(trial["healthy_after"]) for trial in trials if trial["healthy_after"]]
    laws = {law for trial in broken for law in {line[:2] for line in trial["broken"]}}
    return {
        "trials": len(trials),
        "power cuts": sum(int(trial["cuts"]) for trial in trials),
        "trials with a broken law": len(broken),
        "of these, with the good release": sum(trial["release"] == "good" for trial in broken),
        "never healthy offline": len(trials) - len(times),
        "laws broken": ", ".join(sorted(laws)) or "none",
        "unflushed writes lost": sum(int(trial["lost"]) for trial in trials),
        "median time to healthy, offline": f"{statistics.median(times):.1f} s" if times else "-",
        "worst time to healthy, offline": f"{max(times):.1f} s" if times else "-",
    }


def _side(side: Shown) -> str:
    rows = "".join(_row(trial, side.options) for trial in side.trials)
    return (
        f"<h2>{html.escape(side.title)}: every cut on the update's time line</h2>"
        f"{_picture(side.trials, side.timeline)}<table><tr><th>no.</th><th>release</th>"
        f"<th>cut after</th><th>state</th><th>cuts</th><th>writes lost</th>"
        f"<th>healthy after</th><th>law</th></tr>{rows}</table>"
    )


def _row(trial: Mapping[str, Any], options: str) -> str:
    seed, number = str(trial["seed"]).rsplit(":", 1)
    law = "kept"
    if trial["broken"]:
        command = " ".join(f"make power-cut SEED={seed} ONLY={number} {options}".split())
        law = f"{html.escape('; '.join(trial['broken'])[:2000])}<br><code>{command}</code>"
    healthy = f"{trial['healthy_after']:.1f} s" if trial["healthy_after"] else "never"
    cells = [
        number, trial["release"], f"{trial['cut_after']:.1f} s", html.escape(trial["state"]),
        trial["cuts"], trial["lost"], healthy, law,
    ]  # fmt: skip
    mark = ' class="broken"' if trial["broken"] else ""
    return f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"


def _picture(trials: Sequence[Mapping[str, Any]], timeline: Sequence[tuple[float, str]]) -> str:
    ends = [float(trial["cut_after"]) for trial in trials] + [at for at, _ in timeline]
    tall = max([float(trial["healthy_after"]) for trial in trials] + [1.0])
    wide = max([*ends, 1.0]) * 1.05

    def across(seconds: float) -> float:
        return LEFT + seconds / wide * (WIDTH - LEFT - 10)

    def up(seconds: float) -> float:
        return HEIGHT - BOTTOM - seconds / tall * (HEIGHT - BOTTOM - NEVER - 14)

    parts = []
    for number, (at, state) in enumerate(timeline):
        end = timeline[number + 1][0] if number + 1 < len(timeline) else wide
        colour = COLOURS[number % len(COLOURS)]
        box = f'x="{across(at):.1f}" y="18" width="{across(end) - across(at):.1f}"'
        parts.append(f'<rect {box} height="{HEIGHT - BOTTOM - 18}" fill="{colour}"/>')
        height = 12 + number % 2 * 14
        parts.append(f'<text x="{across(at):.1f}" y="{height}">{html.escape(state)}</text>')
    for trial in trials:
        colour = "#c00" if trial["broken"] else "#2a7d2a"
        after = float(trial["healthy_after"])
        x, y = across(float(trial["cut_after"])), up(after) if after else NEVER
        said = html.escape(f"{trial['seed']}: {trial['state']}")
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}" fill-opacity=".7">'
        parts.append(f"{dot}<title>{said}</title></circle>")
    axis = HEIGHT - BOTTOM
    parts.append(f'<path d="M{LEFT} 18V{axis}H{WIDTH - 10}" fill="none" stroke="#333"/>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<text x="{across(wide * share) - 8:.0f}" y="{axis + 16}">'
                     f"{wide * share:.0f}</text>")  # fmt: skip
        parts.append(f'<text x="18" y="{up(tall * share) + 4:.0f}">{tall * share:.0f}</text>')
    parts.append(f'<text x="18" y="{NEVER + 4}">never</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">seconds after the look for a release; '
                 "upwards: seconds from power-on to healthy, offline</text>")  # fmt: skip
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
