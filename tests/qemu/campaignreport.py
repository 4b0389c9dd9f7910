"""A campaign's report: one HTML file with a table and a picture, nothing from outside."""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM = 960, 320, 60, 40
COLOURS = ("#e8eef7", "#f5f0e1", "#e6f4ea", "#f3e8f5", "#e1f3f5", "#f7e9e8")
STYLE = """\
body { font: 15px sans-serif; margin: 2em; max-width: 70em }
table { border-collapse: collapse } td, th { padding: .2em .7em; text-align: left }
tr:nth-child(even) { background: #f4f4f4 } .broken, .broken td { background: #fbd5d5; color: #900 }
svg text { font: 12px sans-serif }
"""


def render(trials: Sequence[Mapping[str, Any]], timeline: Sequence[tuple[float, str]]) -> str:
    """Return the report of these trials; the timeline is an update that nobody disturbed."""
    broken = [trial for trial in trials if trial["broken"]]
    times = [float(trial["healthy_after"]) for trial in trials if trial["healthy_after"]]
    figures = {
        "trials": len(trials),
        "power cuts": sum(int(trial["cuts"]) for trial in trials),
        "trials with a broken law": len(broken),
        "unflushed writes lost": sum(int(trial["lost"]) for trial in trials),
        "median time to healthy, offline": f"{statistics.median(times):.1f} s" if times else "-",
        "worst time to healthy, offline": f"{max(times):.1f} s" if times else "-",
    }
    rows = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in figures.items())
    table = "".join(_row(trial) for trial in trials)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Power cuts</title>'
        f"<style>{STYLE}</style><h1>Power cuts</h1><table>{rows}</table>"
        f"<h2>Every cut on the update's time line</h2>{_picture(trials, timeline)}"
        f"<h2>Trials</h2><table><tr><th>no.</th><th>release</th><th>cut after</th><th>state</th>"
        f"<th>cuts</th><th>writes lost</th><th>healthy after</th><th>law</th></tr>{table}</table>"
        f"</html>\n"
    )


def _row(trial: Mapping[str, Any]) -> str:
    seed, number = str(trial["seed"]).rsplit(":", 1)
    law = "kept"
    if trial["broken"]:
        command = f"make power-cut SEED={seed} ONLY={number}"
        law = f"{html.escape('; '.join(trial['broken'])[:2000])}<br><code>{command}</code>"
    cells = [
        number, trial["release"], f"{trial['cut_after']:.1f} s", html.escape(trial["state"]),
        trial["cuts"], trial["lost"], f"{trial['healthy_after']:.1f} s", law,
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
        return HEIGHT - BOTTOM - seconds / tall * (HEIGHT - BOTTOM - 30)

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
        x, y = across(float(trial["cut_after"])), up(float(trial["healthy_after"]))
        said = html.escape(f"{trial['seed']}: {trial['state']}")
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}" fill-opacity=".7">'
        parts.append(f"{dot}<title>{said}</title></circle>")
    axis = HEIGHT - BOTTOM
    parts.append(f'<path d="M{LEFT} 18V{axis}H{WIDTH - 10}" fill="none" stroke="#333"/>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<text x="{across(wide * share) - 8:.0f}" y="{axis + 16}">'
                     f"{wide * share:.0f}</text>")  # fmt: skip
        parts.append(f'<text x="18" y="{up(tall * share) + 4:.0f}">{tall * share:.0f}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">seconds after the look for a release; '
                 "upwards: seconds from power-on to healthy, offline</text>")  # fmt: skip
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
