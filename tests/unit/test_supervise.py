"""The resident part's decisions over simulated time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composeapps import supervise
from composeapps.supervise import Backoff, Schedule

HOUR, DAY = 3600.0, 86_400.0


def test_backoff_doubles_up_to_its_bound_and_begins_anew() -> None:
    backoff = Backoff(first=15, last=100)
    assert [backoff.delay() for _ in range(5)] == [15, 30, 60, 100, 100]
    backoff.reset()
    assert backoff.delay() == 15


def simulate(
    schedule: Schedule,
    seconds: float,
    code: Callable[[str, float], int],
    takes: float = 5.0,
    trouble: Callable[[float], bool] = lambda now: False,
    begin: float = 1000.0,
) -> list[tuple[float, str]]:
    """Run the loop's decisions over simulated seconds; return when each child began."""
    now, ran = begin, []
    while now < begin + seconds:
        verb = schedule.due(now)
        if verb:
            ran.append((now - begin, verb))
            schedule.begun(verb)
            now += takes
            schedule.ended(verb, code(verb, now), now)
        wait = schedule.wait(now)
        assert 0 <= wait <= supervise.TICK
        assert (wait == 0) == bool(schedule.due(now))
        now += min(max(wait, 0.01), 1.0)
        if trouble(now):
            schedule.trouble(now)
    return ran


def test_what_came_due_in_sleep_is_done_soon_after_waking() -> None:
    """The clock goes on in sleep, the wait does not: it is bounded for this."""
    schedule = Schedule(HOUR, 0)
    schedule.ended("start", 0, 1000)
    schedule.ended("update", 0, 1000)
    assert 0 < schedule.wait(1000) <= supervise.TICK
    assert schedule.due(1000) == ""
    assert schedule.due(1000 + 8 * HOUR) == "update", "one, however many were slept through"
    schedule.begun("update")
    schedule.ended("update", 0, 1000 + 8 * HOUR)
    assert schedule.due(1000 + 8 * HOUR + 1) == ""


def test_verifying_comes_again_and_damage_asks_for_an_update() -> None:
    schedule = Schedule(HOUR, 0, start_at=float("inf"), update_at=float("inf"))
    schedule.ended("verify", 0, 1000)
    assert schedule.scrub_at == 1000 + supervise.SCRUB_EVERY
    assert schedule.due(1001) == ""
    schedule.ended("verify", 6, 2000)
    assert schedule.due(2001) == "update"


def test_a_start_that_found_damage_asks_for_an_update() -> None:
    schedule = Schedule(HOUR, 0, update_at=float("inf"))
    schedule.ended("start", 6, 1000)
    assert schedule.due(1001) == "update"


def times(ran: list[tuple[float, str]], verb: str) -> list[float]:
    return [at for at, what in ran if what == verb]


def gaps(ran: list[tuple[float, str]], verb: str) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times(ran, verb))]


def test_start_goes_first_then_polls_are_spread_over_the_jitter() -> None:
    ran = simulate(Schedule(HOUR, 600.0), DAY, lambda verb, now: 0)
    assert [verb for _, verb in ran[:2]] == ["start", "update"]
    assert len(times(ran, "start")) == 1, "nothing happened, so nothing is mended"
    between = gaps(ran, "update")
    assert all(HOUR <= gap <= HOUR + 600 + 10 for gap in between)
    assert max(between) - min(between) > 60, "devices do not poll in step"


def test_a_source_that_fails_is_asked_with_back_off_and_never_faster_than_often() -> None:
    ran = simulate(Schedule(HOUR, 0.0), DAY, lambda verb, now: 4 if verb == "update" else 0)
    between = gaps(ran, "update")
    assert between[0] < 25
    assert all(gap >= 7.5 for gap in between)
    assert all(450 <= gap <= 910 for gap in between[8:])
    assert len(times(ran, "start")) == 1, "a lost network is no reason to mend"


def test_a_short_interval_bounds_the_back_off() -> None:
    ran = simulate(Schedule(60.0, 0.0), HOUR, lambda verb, now: 4 if verb == "update" else 0)
    assert all(gap <= 70 for gap in gaps(ran, "update"))


def test_after_the_network_is_back_the_interval_counts_again() -> None:
    ran = simulate(
        Schedule(HOUR, 0.0), DAY, lambda verb, now: 4 if verb == "update" and now < 5000 else 0
    )
    assert all(HOUR <= gap < HOUR + 30 for gap in gaps(ran, "update")[-5:])


def test_a_source_that_failed_long_ago_does_not_count_any_more() -> None:
    codes = iter([4] * 7 + [0, 4])
    ran = simulate(
        Schedule(HOUR, 0.0), DAY, lambda verb, now: next(codes, 0) if verb == "update" else 0
    )
    between = gaps(ran, "update")
    assert between[6] > 400
    assert between[8] < 25


def test_a_killed_update_is_tried_again_soon_and_the_apps_are_looked_after() -> None:
    codes = iter([-9])
    ran = simulate(
        Schedule(HOUR, 0.0), HOUR, lambda verb, now: next(codes, 0) if verb == "update" else 0
    )
    assert times(ran, "update")[1] - times(ran, "update")[0] < 30
    assert len(times(ran, "start")) == 2


@pytest.mark.parametrize("code", [1, 5, 7, 8, 9, 10, 12, -15])
def test_an_update_that_fails_otherwise_polls_on_and_mends_once(code: int) -> None:
    ran = simulate(Schedule(HOUR, 0.0), DAY, lambda verb, now: code if verb == "update" else 0)
    assert all(gap >= HOUR for gap in gaps(ran, "update"))
    assert len(times(ran, "start")) <= len(times(ran, "update")) + 1


def test_mending_that_fails_backs_off_and_updates_go_on() -> None:
    ran = simulate(Schedule(HOUR, 0.0), DAY, lambda verb, now: 12 if verb == "start" else 0)
    between = gaps(ran, "start")
    assert between[:3] == pytest.approx([20, 35, 65], abs=6)
    assert all(gap >= 900 for gap in between[7:])
    assert len(times(ran, "update")) >= 22, "an update may be what mends it"


def test_a_container_that_crashes_for_ever_does_not_undo_the_back_off() -> None:
    ran = simulate(
        Schedule(HOUR, 0.0),
        DAY,
        lambda verb, now: 12 if verb == "start" else 0,
        trouble=lambda now: True,
    )
    assert len(times(ran, "start")) < 110
    assert all(gap >= 900 for gap in gaps(ran, "start")[7:])


def test_an_app_that_is_mended_and_dies_again_is_mended_ever_more_seldom() -> None:
    ran = simulate(Schedule(HOUR, 0.0), DAY, lambda verb, now: 0, trouble=lambda now: True)
    assert gaps(ran, "start")[:2] == pytest.approx([20, 35], abs=8)
    assert all(gap >= 890 for gap in gaps(ran, "start")[8:])


def test_after_a_calm_quarter_of_an_hour_trouble_is_answered_fast_again() -> None:
    moments = [1020.0, 1100.0, 1200.0, 1500.0, 4000.0, 8000.0, 8030.0]
    left = list(moments)

    def trouble(now: float) -> bool:
        if left and now >= left[0]:
            left.pop(0)
            return True
        return False

    ran = simulate(Schedule(DAY, 0.0), 9000, lambda verb, now: 0, trouble=trouble)
    starts = [at + 1000 for at in times(ran, "start")][1:]
    delays = [min(at for at in starts if at >= moment) - moment for moment in moments]
    assert delays == pytest.approx([15, 30, 60, 120, 10, 10, 15], abs=2)


def test_trouble_is_looked_at_once_a_restart_policy_had_its_chance() -> None:
    schedule = Schedule(HOUR, 0.0)
    schedule.ended("start", 0, 5000.0)
    schedule.ended("update", 0, 5000.0)
    schedule.trouble(7000.0)
    schedule.trouble(7009.0)
    assert schedule.due(7009.9) == ""
    assert schedule.due(7010.0) == "start"


def test_somebody_who_asks_is_heard_now_or_after_what_is_under_way() -> None:
    schedule = Schedule(HOUR, 0.0)
    schedule.ended("start", 0, 0.0)
    schedule.begun("update")
    schedule.ask()
    schedule.ended("update", 0, 10.0)
    assert schedule.due(10.0) == "update", "it was asked for while one was under way"
    assert schedule.wait(10.0) == 0
    schedule.begun("update")
    schedule.ended("update", 0, 20.0)
    assert schedule.due(20.0) == ""
    schedule.ask()
    schedule.trouble(0.0)
    assert schedule.due(1000.0) == "start", "mending goes first"
    schedule.begun("start")
    schedule.ended("start", 0, 1010.0)
    assert schedule.due(1010.0) == "update"


def test_a_clock_that_slept_runs_what_is_overdue_once() -> None:
    schedule = Schedule(HOUR, 0.0)
    schedule.ended("start", 0, 0.0)
    schedule.ended("update", 0, 0.0)
    assert schedule.due(30 * DAY) == "update"
    schedule.begun("update")
    schedule.ended("update", 0, 30 * DAY)
    assert schedule.due(30 * DAY) == ""


@given(st.lists(st.tuples(st.sampled_from([0, 4, 5, 8, 12, -9]), st.booleans()), max_size=60))
def test_whatever_happens_children_never_run_without_a_pause(
    story: list[tuple[int, bool]],
) -> None:
    random.seed(1)
    left = list(story)
    schedule = Schedule(HOUR, 60.0)
    ran = simulate(
        schedule,
        4 * HOUR,
        lambda verb, now: left.pop()[0] if left else 0,
        trouble=lambda now: bool(left) and left[-1][1],
    )
    for verb in ("start", "update"):
        assert all(gap >= 5 + 7.5 for gap in gaps(ran, verb))
    assert schedule.due(schedule.update_at) != ""
