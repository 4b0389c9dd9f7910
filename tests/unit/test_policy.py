"""``x-composeapps``: strict for makers, lenient with what a newer maker may say to a device."""

from __future__ import annotations

from typing import Any

import pytest

from composeapps import policy
from composeapps.errors import ConfigError
from composeapps.policy import Policy


def parse(value: Any, *, strict: bool = True) -> Policy:
    return policy.parse({policy.EXTENSION: value}, "app web", strict=strict)


def test_nothing_said() -> None:
    assert policy.parse({}, "app web", strict=True) == Policy()


def test_all_said() -> None:
    value = {"health_timeout": "1m30s", "settle": 15, "profiles": ["prod", "edge.1"]}
    assert parse(value) == Policy(90.0, 15.0, ("prod", "edge.1"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h", 3600), ("500ms", 0.5), ("1.5s", 1.5), ("1h5m30s20ms", 3930.02)],
)
def test_compose_durations(text: str, seconds: float) -> None:
    assert parse({"settle": text}).settle == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "90", "-1s", "1d", "1s ", 0, -1, True, [], "25h", 1e9, "9" * 99]
)
def test_durations_that_are_none(value: Any) -> None:
    for strict in (True, False):
        with pytest.raises(ConfigError, match="app web: x-composeapps: settle has to be seconds"):
            parse({"settle": value}, strict=strict)


@pytest.mark.parametrize("value", ["prod", {}, ["a b"], [""], [1], ["-a"], ["a"] * 33])
def test_profiles_that_are_none(value: Any) -> None:
    with pytest.raises(ConfigError, match="app web: x-composeapps: profiles has"):
        parse({"profiles": value})


def test_unknown_keys_are_the_makers_typo_and_the_devices_future() -> None:
    with pytest.raises(ConfigError, match="unknown key 'health_timout'; known: health_timeout, "):
        parse({"health_timout": 5})
    assert parse({"later": 5, "settle": 2}, strict=False) == Policy(settle=2.0)


@pytest.mark.parametrize("value", [[], "90s", 5])
def test_no_mapping(value: Any) -> None:
    with pytest.raises(ConfigError, match="has to be a mapping"):
        parse(value, strict=False)
