"""A campaign's report: figures, a red row with how to replay, a picture that is sound."""

from __future__ import annotations

import json
import sys
import xml.dom.minidom
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "qemu"))

import campaign
from campaignreport import Shown, render
from campaignside import Plan, moment

TIMELINE = [(1.0, "fetching"), (4.0, "installing"), (9.0, "committed")]


def trial(number: int, after: float, healthy: float, *broken: str) -> dict[str, object]:
    return {
        "number": number, "seed": f"1:{number}", "release": "good", "cut_after": after,
        "state": "fetching", "cuts": 1, "kept": 0, "lost": 3, "healthy_after": healthy,
        "broken": list(broken),
    }  # fmt: skip


def shown(*trials: dict[str, object], title: str = "composeapps", options: str = "") -> Shown:
    return Shown(title, options, trials, TIMELINE)


def test_figures_and_the_command_that_replays_a_broken_law() -> None:
    text = render([shown(trial(0, 2, 20), trial(1, 5, 30), trial(2, 8, 90, "L2: <x>"))])
    assert "<td>trials with a broken law</td><td>1</td>" in text
    assert "<td>median time to healthy, offline</td><td>30.0 s</td>" in text
    assert "<td>worst time to healthy, offline</td><td>90.0 s</td>" in text
    assert text.count('class="broken"') == 1
    assert "L2: &lt;x&gt;<br><code>make power-cut SEED=1 ONLY=2</code>" in text
    assert "http" not in text


def test_the_peer_stands_beside_it() -> None:
    """A device that was never healthy counts in no time."""
    peer = shown(
        trial(0, 2, 10), trial(1, 5, 0, "L1: no", "L4: no"), title="stock", options="PEER=classic"
    )
    text = render([shown(trial(0, 2, 20)), peer])
    assert "<tr><th></th><th>composeapps</th><th>stock</th></tr>" in text
    assert "<td>trials with a broken law</td><td>0</td><td>1</td>" in text
    assert "<td>never healthy offline</td><td>0</td><td>1</td>" in text
    assert "<td>laws broken</td><td>none</td><td>L1, L4</td>" in text
    assert "<td>worst time to healthy, offline</td><td>20.0 s</td><td>10.0 s</td>" in text
    assert "<code>make power-cut SEED=1 ONLY=1 PEER=classic</code>" in text
    assert text.count("<svg") == 2


def test_the_picture_is_sound_and_has_a_dot_for_every_trial() -> None:
    text = render([shown(trial(0, 2, 20), trial(1, 9.5, 30, "L1"), trial(2, 3, 0, "L1"))])
    picture = text[text.index("<svg") : text.index("</svg>") + 6]
    document = xml.dom.minidom.parseString(picture)
    dots = document.getElementsByTagName("circle")
    assert [dot.getAttribute("fill") for dot in dots] == ["#2a7d2a", "#c00", "#c00"]
    heights = [float(dot.getAttribute("cy")) for dot in dots]
    assert heights[2] < heights[1] < heights[0], "never is above all times"
    assert len(document.getElementsByTagName("rect")) == len(TIMELINE)


def test_a_campaign_that_has_not_begun_has_a_report() -> None:
    assert "<td>trials</td><td>0</td>" in render([Shown("composeapps", "", [], [])])


def test_a_line_that_was_left_half_is_done_again(tmp_path: Path) -> None:
    records = tmp_path / "cuts.jsonl"
    lines = [json.dumps(trial(number, 2, 20)) for number in range(3)]
    records.write_text(f"\n{lines[0]}\n{lines[1][:30]}\n{lines[2]}")
    assert [record["number"] for record in campaign.done(records, "1")] == [0, 2]
    assert campaign.done(records, "7") == []
    assert campaign.done(tmp_path / "none", "1") == []


def test_a_seed_says_what_is_done_to_every_side() -> None:
    plans = [Plan.of(f"1:{number}") for number in range(200)]
    assert plans == [Plan.of(f"1:{number}") for number in range(200)]
    assert {plan.release for plan in plans} == {"good", "bad"}
    assert {len(plan.again) for plan in plans} == {0, 1, 4}
    assert all(0 <= plan.share <= 1.15 for plan in plans)


#: An update that nobody disturbed.
UNCUT = [
    (5.0, "pending"),
    (6.0, "fetching"),
    (20.0, "starting"),
    (30.0, "committed"),
    (31.0, "ended"),
]


def test_a_moment_is_found_by_the_state_before_it() -> None:
    assert moment(UNCUT, 3.0) == ([], 3.0)
    states, rest = moment(UNCUT, 10.0)
    assert states[:3] == ["fetching", "starting", "committed"] and rest == 4.0
    assert "pending" not in states and "rolling-back" in states
    states, rest = moment(UNCUT, 33.0)
    assert states[0] == "committed" and rest == 3.0


def test_a_side_without_states_has_only_its_time() -> None:
    assert moment([(40.0, "ended")], 12.0) == ([], 12.0)
