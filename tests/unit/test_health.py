"""Is an app healthy? Tables of what Docker may say of containers, over simulated time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composeapps import health
from composeapps.engine import Container
from composeapps.health import Expectation, Observations, Verdict, expectations, judge

SETTLE = 10.0
WEB = [Expectation("web")]


def container(**fields: Any) -> Container:
    """Return a container as the engine reports one that runs and has no healthcheck."""
    plain = Container(
        id="c1",
        name="app-web-1",
        project="app",
        service="web",
        image="image",
        status="running",
        exit_code=0,
        health="",
        restarts=0,
        started_at="2024-01-01T00:00:00.1Z",
    )
    return replace(plain, **fields)


def look(
    expected: list[Expectation],
    *containers: Container,
    now: float = 0.0,
    seen: Observations | None = None,
    settle: float = SETTLE,
) -> Verdict:
    seen = seen or Observations()
    seen.note(containers, now)
    return judge(expected, containers, seen, now, settle)


def model(**services: Any) -> dict[str, Any]:
    return {"services": services}


def test_what_compose_wants() -> None:
    wanted = expectations(
        model(
            web={
                "depends_on": {
                    "db": {"condition": "service_healthy"},
                    "init": {"condition": "service_completed_successfully"},
                    "odd": None,
                },
                "deploy": {"replicas": 3},
            },
            db={"scale": 2, "deploy": {"replicas": 3}},
            init={"depends_on": None, "deploy": None},
            off={"deploy": {"replicas": 0}},
            odd={"deploy": {"resources": {}}},
        )
    )
    assert wanted == [
        Expectation("db", 2),
        Expectation("init", 1, completes=True),
        Expectation("odd"),
        Expectation("off", 0),
        Expectation("web", 3),
    ]
    assert expectations({}) == []
    assert expectations({"services": None}) == []


@pytest.mark.parametrize(
    ("fields", "completes", "state", "reason"),
    [
        ({"health": "healthy"}, False, "healthy", ""),
        ({"health": "starting"}, False, "waiting", "is not healthy yet"),
        ({"health": "unhealthy"}, False, "failed", "is unhealthy"),
        ({}, False, "waiting", "has not run for 10 s yet"),
        ({"status": "created"}, False, "waiting", "is created"),
        ({"status": "restarting"}, False, "waiting", "is restarting"),
        ({"status": "paused"}, False, "waiting", "is paused"),
        ({"status": "removing"}, False, "waiting", "is removing"),
        ({"status": "paused", "health": "healthy"}, False, "waiting", "is paused"),
        ({"status": "exited"}, False, "failed", "ended with exit code 0"),
        ({"status": "exited", "exit_code": 137}, False, "failed", "ended with exit code 137"),
        ({"status": "dead", "exit_code": 1}, False, "failed", "ended with exit code 1"),
        ({"status": "exited", "health": "healthy"}, False, "failed", "ended with exit code 0"),
        ({"status": "exited"}, True, "healthy", ""),
        ({"status": "exited", "exit_code": 1}, True, "failed", "ended with exit code 1"),
        ({}, True, "waiting", "has not ended yet"),
        ({"health": "healthy"}, True, "waiting", "has not ended yet"),
        ({"health": "unhealthy"}, True, "waiting", "has not ended yet"),
        ({"status": "created"}, True, "waiting", "is created"),
    ],
)
def test_one_container_at_first_sight(
    fields: dict[str, Any], completes: bool, state: str, reason: str
) -> None:
    verdict = look([Expectation("web", completes=completes)], container(**fields))
    failed = "c1" if state == "failed" else ""
    assert verdict == Verdict(state, {"web": reason} if reason else {}, failed)


def test_a_service_without_healthcheck_settles() -> None:
    seen = Observations()
    for now, state in [(100.0, "waiting"), (109.9, "waiting"), (110.0, "healthy")]:
        assert look(WEB, container(), now=now, seen=seen).state == state
    assert look(WEB, container(), settle=0.0).state == "healthy"


def test_a_healthcheck_needs_no_settling_and_may_turn() -> None:
    seen = Observations()
    states = [("starting", "waiting"), ("healthy", "healthy"), ("unhealthy", "failed")]
    for now, (word, state) in enumerate(states):
        assert look(WEB, container(health=word), now=now, seen=seen).state == state


@pytest.mark.parametrize(
    "fields", [{"restarts": 1}, {"started_at": "2024-01-01T00:00:09Z"}, {"id": "c2"}]
)
def test_another_run_settles_anew(fields: dict[str, Any]) -> None:
    """Restarted by its policy, by a person, or replaced: the time before does not count."""
    seen = Observations()
    look(WEB, container(), now=0.0, seen=seen)
    again = container(**fields)
    assert look(WEB, again, now=9.0, seen=seen).reasons == {"web": "has not run for 10 s yet"}
    assert look(WEB, again, now=18.9, seen=seen).state == "waiting"
    assert look(WEB, again, now=19.0, seen=seen).state == "healthy"


def test_a_restart_loop_fails_at_once_and_not_at_the_time_out() -> None:
    seen = Observations()
    states = []
    for count in range(4):
        fields = {"status": "restarting", "restarts": count, "exit_code": 3}
        verdict = look(WEB, container(**fields), now=count / 10, seen=seen)
        states.append(verdict.state)
    assert states == ["waiting", "waiting", "waiting", "failed"]
    assert verdict == Verdict("failed", {"web": "restarted 3 times, last exit code 3"}, "c1")


def test_a_loop_is_one_also_between_two_crashes_and_with_a_healthcheck() -> None:
    seen = Observations()
    look(WEB, container(health="starting"), seen=seen)
    looping = container(restarts=3, health="healthy")
    assert look(WEB, looping, now=1.0, seen=seen).state == "failed"


def test_restarts_before_the_gate_do_not_count() -> None:
    seen = Observations()
    assert look(WEB, container(restarts=50), seen=seen).state == "waiting"
    assert look(WEB, container(restarts=52), now=20.0, seen=seen).state == "waiting"
    assert look(WEB, container(restarts=52), now=30.0, seen=seen).state == "healthy"
    assert look(WEB, container(restarts=53), now=31.0, seen=seen).state == "failed"


def test_replicas_have_to_exist_and_each_has_to_be_healthy() -> None:
    three = [Expectation("web", 3)]
    first, second, third = (container(id=f"c{n}", health="healthy") for n in range(3))
    assert look(three).reasons == {"web": "0 of 3 containers exist"}
    assert look(three, first, second).reasons == {"web": "2 of 3 containers exist"}
    assert look(three, first, second).state == "waiting"
    assert look(three, first, second, third).state == "healthy"
    sick = replace(third, health="unhealthy")
    assert look(three, first, second, sick) == Verdict("failed", {"web": "is unhealthy"}, "c2")
    assert look(three, sick).state == "failed", "what cannot become healthy does not wait"
    assert look([Expectation("web", 0)]).state == "healthy"


def test_each_service_gives_its_reason_and_the_failed_one_decides() -> None:
    expected = [Expectation("db"), Expectation("init", completes=True), Expectation("web")]
    web, init = container(), container(id="c2", service="init")
    verdict = look(expected, web, init)
    assert verdict.state == "waiting"
    assert verdict.reasons == {
        "db": "0 of 1 containers exist",
        "init": "has not ended yet",
        "web": "has not run for 10 s yet",
    }
    verdict = look(expected, web, replace(init, status="exited", exit_code=2))
    assert (verdict.state, verdict.container) == ("failed", "c2")
    assert verdict.reasons["init"] == "ended with exit code 2"


def test_containers_that_no_service_wants_do_not_count() -> None:
    stray = container(id="c9", service="old", status="dead")
    assert look(WEB, stray, container(health="healthy")).state == "healthy"
    assert look([], stray) == Verdict("healthy")


STATUS = ["created", "running", "paused", "restarting", "removing", "exited", "dead", "", "new"]
HEALTH = ["", "starting", "healthy", "unhealthy", "new"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(STATUS),
            st.sampled_from(HEALTH),
            st.integers(0, 5),
            st.integers(0, 2),
            st.sampled_from(["web", "db"]),
        ),
        max_size=5,
    ),
    st.floats(0, 100),
    st.booleans(),
)
def test_healthy_means_that_every_service_runs_or_has_ended_well(
    rows: list[tuple[str, str, int, int, str]], now: float, completes: bool
) -> None:
    expected = [Expectation("web", completes=completes), Expectation("db")]
    containers = [
        container(id=f"c{n}", status=row[0], health=row[1], restarts=row[2], exit_code=row[3],
                  service=row[4])
        for n, row in enumerate(rows)
    ]  # fmt: skip
    seen = Observations()
    seen.note(containers, 0.0)
    verdict = judge(expected, containers, seen, now, SETTLE)
    assert verdict.state in (health.HEALTHY, health.WAITING, health.FAILED)
    assert (verdict.state == health.HEALTHY) == (not verdict.reasons)
    if verdict.state == health.HEALTHY:
        for item in expected:
            mine = [one for one in containers if one.service == item.service]
            assert mine
            wanted = "exited" if item.completes else "running"
            alive = [one.status in (wanted, "dead") and one.exit_code < 9 for one in mine]
            assert all(alive)
