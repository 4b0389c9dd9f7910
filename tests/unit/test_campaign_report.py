"""A campaign's report: figures, a red row with how to replay, a picture that is sound."""

from __future__ import annotations

import sys
import xml.dom.minidom
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "qemu"))

import campaignreport

TIMELINE = [(1.0, "fetching"), (4.0, "installing"), (9.0, "committed")]


def trial(number: int, after: float, healthy: float, *broken: str) -> dict[str, object]:
    return {
        "number": number, "seed": f"1:{number}", "release": "good", "cut_after": after,
        "state": "fetching", "cuts": 1, "kept": 0, "lost": 3, "healthy_after": healthy,
        "broken": list(broken),
    }  # fmt: skip


def test_figures_and_the_command_that_replays_a_broken_law() -> None:
    text = campaignreport.render(
        [trial(0, 2, 20), trial(1, 5, 30), trial(2, 8, 90, "L2: <x>")], TIMELINE
    )
    assert "<td>trials with a broken law</td><td>1</td>" in text
    assert "<td>median time to healthy, offline</td><td>30.0 s</td>" in text
    assert "<td>worst time to healthy, offline</td><td>90.0 s</td>" in text
    assert text.count('class="broken"') == 1
    assert "L2: &lt;x&gt;<br><code>make power-cut SEED=1 ONLY=2</code>" in text
    assert "http" not in text


def test_the_picture_is_sound_and_has_a_dot_for_every_trial() -> None:
    text = campaignreport.render([trial(0, 2, 20), trial(1, 9.5, 30, "L1")], TIMELINE)
    picture = text[text.index("<svg") : text.index("</svg>") + 6]
    document = xml.dom.minidom.parseString(picture)
    dots = document.getElementsByTagName("circle")
    assert [dot.getAttribute("fill") for dot in dots] == ["#2a7d2a", "#c00"]
    assert len(document.getElementsByTagName("rect")) == len(TIMELINE)


def test_a_campaign_that_has_not_begun_has_a_report() -> None:
    assert "<td>trials</td><td>0</td>" in campaignreport.render([], [])
