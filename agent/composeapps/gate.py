"""The health gate: start a release's apps and watch them until each is healthy or cannot be."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from composeapps.device import Device
from composeapps.errors import EngineError
from composeapps.health import FAILED, HEALTHY, Observations, Verdict, judge
from composeapps.plan import AppPlan, Plan

#: Seconds between two looks at the containers.
INTERVAL = 0.25


@dataclass(frozen=True)
class Unhealthy:
    """Why an app did not pass."""

    app: str
    reason: str
    #: The last log lines of the service that failed.
    log: str = ""


@dataclass
class _Watched:
    app: AppPlan
    deadline: float
    settle: float
    seen: Observations = field(default_factory=Observations)


def limits(device: Device, plan: Plan, app: AppPlan) -> tuple[float, float]:
    """Return an app's time to become healthy and its settle time, seconds.

    The app's own wish counts before the release's, the release's before the device's settings.
    """
    update = device.settings.update
    gate = plan.release.gates
    timeout = app.policy.health_timeout or gate.health_timeout or update.health_timeout
    wishes = (app.policy.settle, gate.settle, update.settle)
    return timeout, next(float(wish) for wish in wishes if wish is not None)


def watch(
    device: Device,
    plan: Plan,
    apps: list[AppPlan],
    *,
    until: float = math.inf,
    every: bool = False,
) -> list[Unhealthy]:
    """Watch started apps until all are healthy, or one cannot become so.

    Args:
        until: time of ``time.monotonic`` at which waiting ends for all of them.
        every: go on where one cannot, and judge each.

    Returns:
        the apps that did not pass; empty where all are healthy.

    Raises:
        EngineError: the engine does not answer.
    """
    begun = time.monotonic()
    watched = []
    for app in apps:
        timeout, settle = limits(device, plan, app)
        watched.append(_Watched(app, min(begun + timeout, until), settle))
    failed: list[Unhealthy] = []
    while watched and (every or not failed):
        waiting = []
        for item in watched:
            verdict = _look(device, item)
            if verdict.state == FAILED or (
                verdict.state != HEALTHY and time.monotonic() > item.deadline
            ):
                failed.append(_explain(device, item, verdict))
            elif verdict.state != HEALTHY:
                waiting.append(item)
        watched = waiting
        if watched and (every or not failed):
            time.sleep(INTERVAL)
    return failed


def snapshot_of_health(device: Device, plan: Plan) -> dict[str, Verdict]:
    """Judge every app once, without waiting; a running service counts as settled."""
    return {app.name: _look(device, _Watched(app, 0.0, 0.0)) for app in plan.apps}


def _look(device: Device, item: _Watched) -> Verdict:
    containers = device.engine.containers(item.app.name)
    now = time.monotonic()
    item.seen.note(containers, now)
    return judge(item.app.expected, containers, item.seen, now, item.settle)


def _explain(device: Device, item: _Watched, verdict: Verdict) -> Unhealthy:
    reasons = [f"{service}: {text}" for service, text in sorted(verdict.reasons.items())]
    prefix = "" if verdict.state == FAILED else "not healthy in time; "
    log = _log_tail(device, verdict.container) if verdict.container else ""
    return Unhealthy(item.app.name, prefix + "; ".join(reasons), log)


def _log_tail(device: Device, container: str) -> str:
    """Return the last log lines; what the engine says instead where it has none to give.

    Some logging drivers cannot be read (``none``), and that must not stand for why an app failed.
    """
    try:
        return device.engine.log_tail(container)
    except EngineError as error:
        return f"({error})"
