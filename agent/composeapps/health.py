"""Is an app healthy? A pure judgement of containers, and the small memory that it needs.

An app is healthy when each of its services is: healthy by its own healthcheck, or running without
a restart for the settle time, or ended with 0 where Compose waits for that
(``service_completed_successfully``). What cannot become healthy any more fails at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composeapps.engine import Container

#: Restarts within one gate that count as a loop; Docker waits 0.1, 0.2, 0.4 s before the first.
LOOP = 3

HEALTHY = "healthy"
WAITING = "waiting"
FAILED = "failed"


@dataclass(frozen=True)
class Expectation:
    """One service as Compose wants it."""

    service: str
    #: How many containers.
    replicas: int = 1
    #: Another service waits for its successful end, so ended with 0 is what is wanted.
    completes: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one app."""

    state: str
    #: One sentence a service that is not healthy.
    reasons: Mapping[str, str] = field(default_factory=dict)
    #: Container whose log tells more, where the gate failed.
    container: str = ""


def expectations(config: Mapping[str, Any]) -> list[Expectation]:
    """Read from Compose's canonical model which services have to run."""
    services: Mapping[str, Any] = config.get("services") or {}
    completes = {
        name
        for service in services.values()
        for name, dependency in (service.get("depends_on") or {}).items()
        if (dependency or {}).get("condition") == "service_completed_successfully"
    }
    found = []
    for name, service in sorted(services.items()):
        replicas = (service.get("deploy") or {}).get("replicas")
        scale = service.get("scale", 1 if replicas is None else replicas)
        found.append(Expectation(name, int(scale), name in completes))
    return found


class Observations:
    """Remembers, over one gate, since when each container runs and how often it was restarted."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str, int], float] = {}
        self._restarts: dict[str, int] = {}

    def note(self, containers: Sequence[Container], now: float) -> None:
        """Take in one look at the containers; ``now`` is monotonic seconds."""
        for container in containers:
            self._restarts.setdefault(container.id, container.restarts)
            if container.status == "running":
                self._since.setdefault(_run(container), now)

    def uptime(self, container: Container, now: float) -> float:
        """Return for how many seconds this run of a container was seen running."""
        return now - self._since.get(_run(container), now)

    def restarts(self, container: Container) -> int:
        """Return how often a container was restarted since it was first seen."""
        return container.restarts - self._restarts.get(container.id, container.restarts)


def judge(
    expected: Sequence[Expectation],
    containers: Sequence[Container],
    seen: Observations,
    now: float,
    settle: float,
) -> Verdict:
    """Judge one app at one moment.

    Args:
        now: monotonic seconds, the clock that ``seen`` was fed with.
        settle: seconds that a service without healthcheck has to run without a restart.
    """
    state = HEALTHY
    reasons: dict[str, str] = {}
    for expectation in expected:
        mine = [c for c in containers if c.service == expectation.service]
        if len(mine) < expectation.replicas:
            reasons[expectation.service] = f"{len(mine)} of {expectation.replicas} containers exist"
            state = WAITING
        for container in mine:
            verdict, reason = _judge_container(expectation, container, seen, now, settle)
            if verdict == HEALTHY:
                continue
            reasons[expectation.service] = reason
            if verdict == FAILED:
                return Verdict(FAILED, reasons, container.id)
            state = WAITING
    return Verdict(state, reasons)


def _judge_container(
    expectation: Expectation,
    container: Container,
    seen: Observations,
    now: float,
    settle: float,
) -> tuple[str, str]:
    restarts = seen.restarts(container)
    if restarts >= LOOP:
        return FAILED, f"restarted {restarts} times, last exit code {container.exit_code}"
    if container.status in ("exited", "dead"):
        if expectation.completes and container.exit_code == 0:
            return HEALTHY, ""
        return FAILED, f"ended with exit code {container.exit_code}"
    if container.status != "running":
        return WAITING, f"is {container.status}"
    if expectation.completes:
        return WAITING, "has not ended yet"
    if container.health == "unhealthy":
        return FAILED, "is unhealthy"
    if container.health == "starting":
        return WAITING, "is not healthy yet"
    if not container.health and seen.uptime(container, now) < settle:
        return WAITING, f"has not run for {settle:g} s yet"
    return HEALTHY, ""


def _run(container: Container) -> tuple[str, str, int]:
    return (container.id, container.started_at, container.restarts)
