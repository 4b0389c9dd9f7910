"""The release document: canonical bytes, every rule, and that schema and code agree."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from importlib import resources
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from composeapps.errors import ConfigError, TrustError
from composeapps.release import (
    LIMIT,
    App,
    Gates,
    Release,
    Rollout,
    Size,
    check_channel,
    in_rollout,
)

ARTIFACT = f"registry.example.com/shop/web@sha256:{'a' * 64}"


def document() -> dict[str, Any]:
    return {
        "schema": 1,
        "channel": "stable",
        "version": 7,
        "apps": {
            "web": {
                "artifact": ARTIFACT,
                "sizes": {"linux/amd64": {"download": 10, "flash": 20}},
            }
        },
        "rollout": {"percent": 50, "seed": "spring"},
        "gates": {"health_timeout": 60, "settle": 5},
    }


def at(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change that sets one field, named like ``apps/web/artifact``."""

    def change(doc: dict[str, Any]) -> None:
        *parents, last = path.split("|")
        for name in parents:
            doc = doc[name]
        doc[last] = value

    return change


def without(path: str) -> Callable[[dict[str, Any]], None]:
    def change(doc: dict[str, Any]) -> None:
        *parents, last = path.split("|")
        for name in parents:
            doc = doc[name]
        del doc[last]

    return change


GOOD = [
    at("version", 1),
    at("version", 2**53 - 1),
    at("apps", {}),
    at("apps", {f"a{i}": {"artifact": ARTIFACT} for i in range(100)}),
    at("apps|web|artifact", f"localhost/web@sha256:{'0' * 64}"),
    at("apps|web|artifact", f"registry:5000/a/b/c@sha256:{'0' * 64}"),
    at("apps|web|artifact", f"[::1]:5000/web@sha256:{'0' * 64}"),
    at("apps|web|artifact", f"docker.io/library/web@sha256:{'0' * 64}"),
    at("apps|web|artifact", f"Example/a__b-c.d@sha256:{'0' * 64}"),
    at("apps|web|sizes", {}),
    at("apps|web|sizes|linux/arm/v7", {"download": 0, "flash": 0}),
    without("apps|web|sizes"),
    without("rollout"),
    without("rollout|percent"),
    without("rollout|seed"),
    at("rollout|percent", 0),
    without("gates"),
    without("gates|settle"),
    at("channel", "a"),
    at("channel", "a" * 63),
]
BAD = [
    without("schema"),
    without("channel"),
    without("version"),
    without("apps"),
    without("apps|web|artifact"),
    without("apps|web|sizes|linux/amd64|flash"),
    at("schema", 0),
    at("schema", 2),
    at("schema", "1"),
    at("schema", None),
    at("channel", ""),
    at("channel", "a" * 64),
    at("channel", "Stable"),
    at("channel", "a/b"),
    at("channel", "../b"),
    at("channel", "a\n"),
    at("channel", "root"),
    at("channel", "timestamp"),
    at("channel", 7),
    at("version", 0),
    at("version", -1),
    at("version", 2**53),
    at("version", 1.5),
    at("version", "7"),
    at("version", True),
    at("version", None),
    at("apps", []),
    at("apps", {f"a{i}": {"artifact": ARTIFACT} for i in range(101)}),
    at("apps", {"Web": {"artifact": ARTIFACT}}),
    at("apps", {"": {"artifact": ARTIFACT}}),
    at("apps", {"web\n": {"artifact": ARTIFACT}}),
    at("apps|web", "web"),
    at("apps|web|artifact", 1),
    at("apps|web|artifact", "registry.example.com/shop/web"),
    at("apps|web|artifact", "registry.example.com/shop/web:1"),
    at("apps|web|artifact", f"registry.example.com/shop/web:1@sha256:{'a' * 64}"),
    at("apps|web|artifact", f"web@sha256:{'a' * 64}"),
    at("apps|web|artifact", f"docker.io/web@sha256:{'a' * 64}"),
    at("apps|web|artifact", f"index.docker.io/library/web@sha256:{'a' * 64}"),
    at("apps|web|artifact", f"registry.example.com/../web@sha256:{'a' * 64}"),
    at("apps|web|artifact", f"{ARTIFACT}\n"),
    at("apps|web|artifact", f"registry.example.com/shop/web@sha256:{'A' * 64}"),
    at("apps|web|artifact", f"registry.example.com/{'a' * 1024}@sha256:{'a' * 64}"),
    at("apps|web|sizes", []),
    at("apps|web|sizes|linux", {"download": 0, "flash": 0}),
    at("apps|web|sizes|linux/aarch64", {"download": 0, "flash": 0}),
    at("apps|web|sizes|linux/arm", {"download": 0, "flash": 0}),
    at("apps|web|sizes|linux/amd64/v1", {"download": 0, "flash": 0}),
    at(
        "apps|web|sizes",
        {f"linux/a{i}": {"download": 0, "flash": 0} for i in range(33)},
    ),
    at("apps|web|sizes|linux/amd64|flash", -1),
    at("apps|web|sizes|linux/amd64|flash", 2**53),
    at("rollout", None),
    at("rollout|percent", 101),
    at("rollout|percent", -1),
    at("rollout|percent", 10.5),
    at("rollout|seed", "s" * 101),
    at("rollout|seed", 5),
    at("gates", []),
    at("gates|settle", 0),
    at("gates|health_timeout", 86_401),
    at("gates|health_timeout", None),
]
UNKNOWN = [
    at("owner", "me"),
    at("apps|web|owner", "me"),
    at("apps|web|sizes|linux/amd64|ram", 1),
    at("rollout|groups", []),
    at("gates|retries", 1),
]


def changed(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    doc = copy.deepcopy(document())
    change(doc)
    return doc


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    text = resources.files("composeapps").joinpath("schema/release.schema.json").read_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    return jsonschema.Draft202012Validator(json.loads(text))


@pytest.mark.parametrize("change", GOOD)
def test_good_documents_pass_code_and_schema(
    change: Callable[[dict[str, Any]], None], schema: jsonschema.Draft202012Validator
) -> None:
    doc = changed(change)
    schema.validate(doc)
    release = Release.parse(json.dumps(doc).encode(), "it", strict=True)
    again = Release.parse(release.to_bytes(), "it", strict=True)
    assert again == release
    assert again.to_bytes() == release.to_bytes()


@pytest.mark.parametrize("change", BAD)
def test_bad_documents_fail_code_and_schema(
    change: Callable[[dict[str, Any]], None], schema: jsonschema.Draft202012Validator
) -> None:
    doc = changed(change)
    assert not schema.is_valid(doc)
    data = json.dumps(doc).encode()
    with pytest.raises(TrustError, match="the release"):
        Release.parse(data, "the release")
    with pytest.raises(ConfigError, match="the release"):
        Release.parse(data, "the release", strict=True)


@pytest.mark.parametrize("change", UNKNOWN)
def test_unknown_fields_are_a_makers_error_and_ignored_by_devices(
    change: Callable[[dict[str, Any]], None], schema: jsonschema.Draft202012Validator
) -> None:
    doc = changed(change)
    assert not schema.is_valid(doc)
    data = json.dumps(doc).encode()
    with pytest.raises(ConfigError, match="unknown field"):
        Release.parse(data, "it", strict=True)
    assert Release.parse(data, "it") == Release.parse(json.dumps(document()).encode(), "it")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b"\xff\xfe{}",
        json.dumps(document()).encode()[:-1] + b', "version": 8}',
        json.dumps(document()).encode()[:-1] + b', "apps": {}}',
        json.dumps(document()).replace('"flash"', '"flash": 1, "flash"').encode(),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"version": ' + b"9" * 10_000 + b"}",
        b'{"schema": 1, "version": NaN}',
        b'{"schema": 1e400}',
        b"{" + b" " * LIMIT + b"}",
        json.dumps(document()).encode("utf-16"),
        json.dumps(document()).encode()[:-1],
    ],
)
def test_hostile_bytes_are_one_sentence(data: bytes) -> None:
    with pytest.raises(TrustError, match=r"^the release ") as caught:
        Release.parse(data, "the release")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_newer_layout_says_what_to_do() -> None:
    doc = document() | {"schema": 2, "apps": "something new"}
    with pytest.raises(TrustError, match=r"schema 2.*update the device's image"):
        Release.parse(json.dumps(doc).encode(), "it")


def test_canonical_bytes_are_these() -> None:
    release = Release("stable", 3, {"b": App(ARTIFACT), "a": App(ARTIFACT)})
    text = release.to_bytes().decode()
    assert text.endswith("}\n")
    assert text.index('"a"') < text.index('"b"')
    assert "rollout" not in text
    assert "gates" not in text
    full = Release(
        "stable",
        3,
        {"a": App(ARTIFACT, {"linux/amd64": Size(1, 2)})},
        Rollout(10, "x"),
        Gates(health_timeout=9),
    )
    assert Release.parse(full.to_bytes(), "it", strict=True) == full


@pytest.mark.parametrize("name", ["targets", "", "a b", "ä", "-a", "a" * 64, "a.b"])
def test_channel_names(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a channel"):
        check_channel(name)


def rollout(percent: int, seed: str = "", version: int = 1, app: str = "web") -> Release:
    return Release("stable", version, {app: App(ARTIFACT)}, Rollout(percent, seed))


@given(st.text(), st.integers(0, 100), st.integers(0, 100))
def test_a_larger_share_holds_the_smaller_one(device: str, one: int, other: int) -> None:
    small, large = min(one, other), max(one, other)
    # A larger share is a new version with the same apps.
    if in_rollout(rollout(small, version=1), device):
        assert in_rollout(rollout(large, version=2), device)
    assert not in_rollout(rollout(0), device)
    assert in_rollout(rollout(100), device)


def test_shares_are_near_what_they_say_and_differ_between_releases() -> None:
    devices = [f"device-{number}" for number in range(4000)]
    first = {device for device in devices if in_rollout(rollout(10), device)}
    other = {device for device in devices if in_rollout(rollout(10, app="shop"), device)}
    assert 320 < len(first) < 480
    assert 320 < len(other) < 480
    assert len(first & other) < 100
    seeded = {device for device in devices if in_rollout(rollout(10, "s"), device)}
    assert seeded == {device for device in devices if in_rollout(rollout(10, "s", 9, "b"), device)}
