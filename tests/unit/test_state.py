"""What the device remembers: releases and their states, values, events; what may follow what."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stateparts import DIGEST, OTHER, bring

from composeapps import state
from composeapps.errors import StateError
from composeapps.state import State

#: From each state, the states that a release may go to; anything else is refused.
TABLE = {
    "pending": "pending fetching failed",
    "fetching": "fetching fetched failed pending",
    "fetched": "fetched fetching installing failed",
    "installing": "installing starting rolling-back",
    "starting": "starting installing committed rolling-back",
    "rolling-back": "rolling-back failed",
    "committed": "committed installing",
    "failed": "failed pending",
}


def test_every_state_and_no_other_is_in_the_table() -> None:
    assert set(TABLE) == set(state.ALLOWED)
    assert sorted(state.SWITCHING) == ["installing", "rolling-back", "starting"]


@pytest.mark.parametrize(("before", "after"), list(itertools.product(TABLE, TABLE)))
def test_every_step_is_allowed_or_refused(db: State, before: str, after: str) -> None:
    bring(db, before)
    if after in TABLE[before].split():
        db.advance(DIGEST, after, "why")
    else:
        with pytest.raises(StateError, match=f"{DIGEST} cannot go from {before} to {after}"):
            db.advance(DIGEST, after, "why")
    record = db.release(DIGEST)
    assert record is not None
    allowed = after in TABLE[before].split()
    assert record.state == (after if allowed else before)
    assert record.reason == ("why" if allowed else "")


def test_a_release_that_nobody_knows_goes_nowhere(db: State) -> None:
    with pytest.raises(StateError, match="cannot go from unknown to fetching"):
        db.advance(DIGEST, "fetching")
    with pytest.raises(StateError, match="cannot go from unknown to committed"):
        db.commit(DIGEST, "committed", {})
    assert db.events() == []
    assert db.count_attempt(DIGEST) == 0
    assert db.release(DIGEST) is None
    assert db.document(DIGEST) is None


def test_a_known_release_is_not_made_pending_again(db: State) -> None:
    bring(db, "starting")
    record = db.add_release(DIGEST, "other", 7, b"other")
    assert (record.state, record.channel, record.version) == ("starting", "stable", 1)
    assert db.document(DIGEST) == b"document"


def test_commit_moves_current_to_previous_and_counts_anew(db: State) -> None:
    bring(db, "starting")
    assert [db.count_attempt(DIGEST), db.count_attempt(DIGEST)] == [1, 2]
    event = db.commit(DIGEST, "committed", {"version": 1})
    assert (db.current, db.previous) == (DIGEST, "")
    bring(db, "starting", OTHER)
    db.commit(OTHER, "committed", {})
    assert (db.current, db.previous) == (OTHER, DIGEST)
    for step in ("installing", "starting"):
        db.advance(OTHER, step)
    db.commit(OTHER, "committed", {})
    assert (db.current, db.previous) == (OTHER, DIGEST), "committed again, nothing moves"
    record = db.release(DIGEST)
    assert record is not None
    assert (record.state, record.attempts) == ("committed", 0)
    assert db.events()[0] == event


def test_a_failure_is_remembered_until_retry(db: State) -> None:
    bring(db, "rolling-back")
    db.count_attempt(DIGEST)
    event = db.fail(DIGEST, "it crashed", "failed", {"log": "x"})
    record = db.release(DIGEST)
    assert record is not None
    assert (record.state, record.reason, record.attempts) == ("failed", "it crashed", 1)
    assert db.events(unsent=True) == [event]
    assert db.switching() is None
    db.retry(DIGEST)
    record = db.release(DIGEST)
    assert record is not None
    assert (record.state, record.reason, record.attempts) == ("pending", "", 0)
    bring(db, "committed", OTHER)
    with pytest.raises(StateError, match="cannot go from committed to pending"):
        db.retry(OTHER)


def test_switching_names_the_release_under_way(db: State) -> None:
    bring(db, "committed", OTHER)
    assert db.switching() is None
    for wanted in ("installing", "starting", "rolling-back"):
        db.forget_release(DIGEST)
        bring(db, wanted)
        found = db.switching()
        assert found is not None
        assert found.digest == DIGEST


def test_releases_are_listed_newest_first(db: State) -> None:
    for version in (2, 10, 1):
        db.add_release(f"sha256:{version:064}", "stable", version, b"")
    assert [record.version for record in db.releases()] == [10, 2, 1]


def test_values_snapshots_and_images(db: State) -> None:
    assert db.get("target", "none") == "none"
    db.put("target", DIGEST)
    db.put("target", OTHER)
    assert db.get("target") == OTHER
    db.put("target", "")
    assert db.get("target", "none") == "none"
    db.set_snapshot("c1", Path("/a/fs"))
    db.set_snapshot("c2", Path("/b/fs"))
    db.set_snapshot("c1", Path("/c/fs"))
    assert db.snapshots() == {"c1": Path("/c/fs"), "c2": Path("/b/fs")}
    db.forget_snapshots(["c1", "unknown"])
    assert set(db.snapshots()) == {"c2"}
    db.forget_snapshots()
    assert db.snapshots() == {}
    db.note_image("a")
    db.note_image("a")
    db.note_image("b")
    db.forget_image("a")
    assert db.images() == {"b"}


def test_events_stay_until_sent_and_then_the_newest_stay(db: State) -> None:
    events = [db.add_event("kind", {"number": number}) for number in range(6)]
    assert len({event.id for event in events}) == 6
    assert db.events(unsent=True, limit=2) == events[:2]
    db.mark_sent([event.id for event in events[:5]], keep=3)
    left = db.events()
    assert [event.body["number"] for event in left] == [3, 4, 5]
    assert [event.sent for event in left] == [True, True, False]
    db.mark_sent([], keep=0)
    assert [event.body["number"] for event in db.events()] == [5], "what is not sent is not dropped"


@given(st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.none()))
def test_any_reason_and_any_body_can_be_kept(text: str, body: dict[str, str | int | None]) -> None:
    db = State(Path(":memory:"))
    db.add_release(DIGEST, text, 1, text.encode())
    db.fail(DIGEST, text, text, body)
    record = db.release(DIGEST)
    assert record is not None
    assert record.reason == text
    assert db.events()[0].body == body
    db.close()


def test_half_characters_of_a_server_do_not_stop_a_failure_from_being_written(db: State) -> None:
    db.add_release(DIGEST, "stable", 1, b"")
    db.fail(DIGEST, "no image for \udc80\ud800", "failed", {"reason": "\ud800"})
    record = db.release(DIGEST)
    assert record is not None
    assert (record.state, record.reason) == ("failed", "no image for ??")


def test_what_something_stood_in_for_is_not_gone_back_to(db: State) -> None:
    """It is damaged; what ran in its place is the release before the new one."""
    for digest in ("old", "damaged", "new"):
        bring(db, "starting", digest)
        db.commit(digest, "committed", {})
        if digest == "damaged":
            db.put("stand-in", "old")
    assert (db.current, db.previous, db.get("stand-in")) == ("new", "old", "")


def test_where_nobody_takes_events_outcomes_stay_and_of_the_rest_the_newest(
    db: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an app that is never healthy fills the disk, a log every quarter of an hour."""
    monkeypatch.setattr(state, "UNSENT", 3)
    kinds = ["committed", "unhealthy", "failed", *["unhealthy"] * 5]
    for number, kind in enumerate(kinds):
        db.add_event(kind, {"number": number})
    left = [(event.kind, event.body["number"]) for event in db.events(unsent=True)]
    outcomes = [("committed", 0), ("failed", 2)]
    assert left == [*outcomes, *(("unhealthy", number) for number in (5, 6, 7))]
