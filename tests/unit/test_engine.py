"""What is asked of Docker and what is made of its answers; the SDK's client is a stand-in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest

from composeapps.engine import ONEOFF_LABEL, PROJECT_LABEL, VOLUME_LABEL, Engine
from composeapps.errors import EngineError
from composeapps.oci import OCI_INDEX, Descriptor, digest_of

DIGEST = digest_of(b"index")


class Api:
    """Notes what is asked; answers with what it was given."""

    def __init__(self, **answers: Any) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answers = answers

    def __getattr__(self, name: str) -> Any:
        def ask(*arguments: Any, **named: Any) -> Any:
            self.asked.append((name, *arguments, *sorted(named.items())))
            answer = self.answers.get(name)
            if isinstance(answer, dict) and arguments and arguments[0] in answer:
                answer = answer[arguments[0]]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask


def engine(**answers: Any) -> tuple[Engine, Api]:
    api = Api(**answers)
    one = Engine("unix:///nowhere")
    one._client = SimpleNamespace(api=api)  # type: ignore[assignment]
    return one, api


@pytest.mark.parametrize("line", [{"error": "no room"}, {"errorDetail": {}, "error": "no room"}])
def test_a_load_that_fails_in_its_stream_is_told(line: dict[str, Any]) -> None:
    """Docker has answered 200 by then."""
    one, _ = engine(load_image=[{"stream": "Loading"}, line])
    top = Descriptor(OCI_INDEX, DIGEST, 5)
    with pytest.raises(EngineError, match=r"Docker refused image r\.test/web: no room"):
        one.load("r.test/web", top, {DIGEST: b"index"})
    one, _ = engine(load_image=[{"stream": "Loading"}, {"stream": "Loaded image"}, b"odd"])
    one.load("r.test/web", top, {DIGEST: b"index"})


def test_no_volume_goes_with_its_container() -> None:
    one, api = engine()
    one.remove_container("c")
    assert api.asked == [("remove_container", "c", ("force", True), ("v", False))]


def test_what_is_gone_already_is_no_error() -> None:
    gone = docker.errors.NotFound("gone")
    one, _ = engine(
        remove_container=gone,
        remove_image=gone,
        stop=gone,
        containers=[{"Id": "c", "Labels": {}}],
        inspect_container=gone,
        networks=[{"Id": "n"}],
        inspect_network=gone,
    )
    one.remove_container("c")
    one.remove_image("i")
    one.stop("p")
    one.remove_containers("p")
    one.remove_networks("p")


def test_a_network_that_somebody_is_on_stays() -> None:
    one, api = engine(
        networks=[{"Id": "used"}, {"Id": "free"}],
        inspect_network={"used": {"Containers": {"c": {}}}, "free": {"Containers": {}}},
    )
    one.remove_networks("p")
    assert [call for call in api.asked if call[0] == "remove_network"] == [
        ("remove_network", "free")
    ]


def test_volumes_are_known_by_both_of_their_names() -> None:
    rows = [
        {"Name": "web_data", "Labels": {VOLUME_LABEL: "data"}},
        {"Name": "own", "Labels": {VOLUME_LABEL: "cache"}},
        {"Name": "odd", "Labels": None},
    ]
    one, api = engine(volumes={"Volumes": rows})
    names = {"data": "web_data", "web_data": "web_data", "cache": "own", "own": "own", "odd": "odd"}
    assert one.volumes("web") == names
    assert api.asked == [("volumes", ("filters", {"label": [f"{PROJECT_LABEL}=web"]}))]
    assert engine(volumes={"Volumes": None})[0].volumes("web") == {}


def test_containers_that_somebody_ran_once_are_not_the_apps() -> None:
    rows = [
        {"Id": "a", "Labels": {ONEOFF_LABEL: "True"}},
        {"Id": "b", "Labels": {ONEOFF_LABEL: "False"}},
    ]
    value = {"Id": "b", "Name": "/web-1", "Config": {}, "State": {"Status": "running"}}
    one, _ = engine(containers=rows, inspect_container=value)
    assert [container.name for container in one.containers("web")] == ["web-1"]


def test_the_end_of_a_log_is_short_whatever_is_in_it() -> None:
    one, _ = engine(logs=b"x" * 20_000 + b"\xff end")
    tail = one.log_tail("c")
    assert len(tail) == 8192
    assert tail.endswith("\ufffd end")


def test_what_docker_complains_about_is_told_with_what_was_asked() -> None:
    one, _ = engine(
        stop=docker.errors.APIError("it hangs"),
        containers=[{"Id": "c"}],
        inspect_container={"Id": "c", "Name": "", "Config": {}, "State": {}},
    )
    with pytest.raises(EngineError, match="Docker, while stopping a container: it hangs"):
        one.stop("p")


def inspected(stop_timeout: int | None) -> dict[str, Any]:
    config: dict[str, Any] = {"Labels": {PROJECT_LABEL: "a"}}
    if stop_timeout is not None:
        config["StopTimeout"] = stop_timeout
    return {"Id": "c", "Name": "/c", "Config": config, "State": {}}


@pytest.mark.parametrize(
    ("wanted", "given"), [(None, 10), (0, 0), (1, 1), (180, 180), (3_600_000, 600)]
)
def test_a_container_has_its_own_time_to_end_but_not_for_ever(
    wanted: int | None, given: int
) -> None:
    """The SDK would give each ten seconds at a restart."""
    one, api = engine(containers=[{"Id": "c"}], inspect_container=inspected(wanted))
    one.stop("a")
    (container,) = one.containers("a")
    one.restart(container)
    assert ("stop", "c", ("timeout", given)) in api.asked
    assert ("restart", "c", ("timeout", given)) in api.asked
