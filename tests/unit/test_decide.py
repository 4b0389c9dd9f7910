"""What a device does about its channel's release: every combination of what it knows."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from composeapps import offer, state
from composeapps.offer import decide
from composeapps.release import Gates, Release, Rollout
from composeapps.state import ReleaseRecord

NEW, OLD, FACTORY = ("sha256:" + letter * 64 for letter in "abc")
EVERY, NOBODY = Rollout(percent=100), Rollout(percent=0)


def release(**fields: Any) -> Release:
    plain = Release(channel="stable", version=5, apps={}, rollout=EVERY, gates=Gates())
    return replace(plain, **fields)


def record(digest: str = NEW, **fields: Any) -> ReleaseRecord:
    plain = ReleaseRecord(digest, "stable", 5, state.PENDING, "", 0, 0.0)
    return replace(plain, **fields)


CURRENT = record(OLD, version=4, state=state.COMMITTED)


def decided(
    offered: Release | None = None,
    known: ReleaseRecord | None = None,
    current: ReleaseRecord | None = CURRENT,
    **more: bool,
) -> str:
    return decide(offered or release(), known, current, "device-1", FACTORY, **more)


def test_a_newer_release_is_taken() -> None:
    assert decided() == offer.AVAILABLE
    assert decided(current=None) == offer.AVAILABLE, "nothing is installed"


@pytest.mark.parametrize("known", sorted(state.ALLOWED))
def test_a_release_that_is_known_goes_on_from_where_it_is(known: str) -> None:
    wanted = offer.FAILED_BEFORE if known == state.FAILED else offer.AVAILABLE
    assert decided(known=record(state=known)) == wanted
    assert decided(known=record(state=known), current=None) == wanted


@pytest.mark.parametrize("known", sorted(state.ALLOWED))
def test_what_runs_is_up_to_date_whatever_was_noted_of_it(known: str) -> None:
    mine = record(state=known)
    assert decided(known=mine, current=mine) == offer.UP_TO_DATE
    assert decided(release(rollout=NOBODY), mine, mine) == offer.UP_TO_DATE


def test_a_failed_release_waits_for_a_newer_one_also_after_a_rollout_grows() -> None:
    failed = record(state=state.FAILED)
    for rollout in (EVERY, NOBODY):
        assert decided(release(rollout=rollout), failed) == offer.FAILED_BEFORE


def test_a_release_that_failed_for_damage_alone_is_no_failed_one() -> None:
    failed = record(state=state.FAILED)
    assert decided(known=failed, damaged=True) == offer.AVAILABLE
    assert decided(known=failed, current=None, damaged=True) == offer.AVAILABLE
    assert decided(release(rollout=NOBODY), failed, damaged=True) == offer.NOT_IN_ROLLOUT


def test_an_older_release_than_the_images_own_is_not_taken() -> None:
    factory = record(FACTORY, version=6, state=state.COMMITTED)
    assert decided(current=factory) == offer.OLDER
    assert decided(known=record(state=state.COMMITTED), current=factory) == offer.OLDER
    assert decided(release(rollout=NOBODY), current=factory) == offer.OLDER
    assert decided(release(version=6), current=factory) == offer.AVAILABLE


def test_a_version_pushed_too_far_is_left_when_trust_lets_it_go() -> None:
    """Its floor stands while the key that signed it does; see ``ratchet``."""
    too_far = record(OLD, version=1_000_000, state=state.COMMITTED)
    assert decided(current=too_far) == offer.AVAILABLE
    assert decided(release(rollout=NOBODY), current=too_far) == offer.NOT_IN_ROLLOUT


def test_another_channel_counts_its_versions_by_itself() -> None:
    other = record(FACTORY, channel="beta", version=60, state=state.COMMITTED)
    assert decided(current=other) == offer.AVAILABLE
    back = record(state=state.COMMITTED)
    assert decided(known=back, current=other) == offer.AVAILABLE


def test_the_rollout_counts_until_the_switch_has_begun() -> None:
    waiting = release(rollout=NOBODY)
    assert decided(waiting) == offer.NOT_IN_ROLLOUT
    assert decided(waiting, current=None) == offer.NOT_IN_ROLLOUT
    for known in sorted(state.ALLOWED.keys() - {state.FAILED}):
        begun = known in state.SWITCHING
        wanted = offer.AVAILABLE if begun else offer.NOT_IN_ROLLOUT
        assert decided(waiting, record(state=known)) == wanted


def test_every_combination_has_one_of_the_words() -> None:
    words = {
        offer.UP_TO_DATE,
        offer.AVAILABLE,
        offer.FAILED_BEFORE,
        offer.NOT_IN_ROLLOUT,
        offer.OLDER,
    }
    found = set()
    records = [None, *(record(state=known) for known in state.ALLOWED)]
    currents = [None, CURRENT, record(FACTORY, version=6), record(OLD, channel="beta"), record()]
    for known, current, rollout in itertools.product(records, currents, (EVERY, NOBODY)):
        found.add(decided(release(rollout=rollout), known, current))
    assert found == words
