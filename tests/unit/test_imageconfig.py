"""Image configs: the device takes what the engine can read, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composeapps.errors import IntegrityError
from composeapps.imageconfig import ImageConfig, parse_config
from composeapps.oci import Platform, digest_of

A = digest_of(b"a")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def image_config(**fields: Any) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [A]}
    value = {"os": "linux", "architecture": "amd64", "rootfs": rootfs, **fields}
    return json.dumps(value).encode()


GOOD_CONFIG: dict[str, Any] = {
    "User": "1000:1000",
    "Env": ["A=1"],
    "Entrypoint": None,
    "Cmd": ["/bin/sh"],
    "Labels": {"a": "b"},
    "Volumes": {"/data": {}, "/null": None},
    "ExposedPorts": {"80/tcp": {}},
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000_000, "Retries": 3},
    "ArgsEscaped": True,
    "OnBuild": None,
    "Shell": ["/bin/bash"],
    "SomethingNew": {"x": [1.5]},
}


def test_a_config_with_all_that_an_image_may_say() -> None:
    data = image_config(
        created="2024-05-01T12:00:00.123456789Z",
        author="me",
        variant="v8",
        architecture="arm64",
        config=GOOD_CONFIG,
        history=[{"created": "0001-01-01T00:00:00Z", "created_by": "x", "empty_layer": True}, {}],
        **{"os.version": "1", "os.features": ["a"]},
    )
    read = parse_config(data, "x")
    assert read == ImageConfig(Platform("linux", "arm64"), (A,))
    bare = parse_config(image_config(config=None, history=None, created=None), "x")
    assert bare.diff_ids == (A,)


@pytest.mark.parametrize(
    "fields",
    [
        {"os": None},
        {"os": "\x1b[2J"},
        {"architecture": "\ud800"},
        {"architecture": ""},
        {"rootfs": {"type": "layers", "Diff_IDs": [A]}},
        {"RootFS": {}},
        {"history": [{"created": "2023-02-29T00:00:00Z"}]},
        {"created": "2024-01-01T00:00:00+24:00"},
        {"created": "2024-01-01T00:00:00"},
        {"os": 5},
        {"architecture": ["amd64"]},
        {"variant": 7},
        {"rootfs": None},
        {"rootfs": {"type": "layers"}},
        {"rootfs": {"type": "files", "diff_ids": [A]}},
        {"rootfs": {"type": "layers", "diff_ids": A}},
        {"rootfs": {"type": "layers", "diff_ids": [A, "x"]}},
        {"config": []},
        {"config": "x"},
        {"history": {}},
        {"history": [1]},
        {"history": [{"empty_layer": "yes"}]},
        {"history": [{"created": "yesterday"}]},
        {"history": [{"created_by": 5}]},
        {"created": "yesterday"},
        {"created": 1_700_000_000},
        {"created": "2024-13-01T00:00:00Z"},
        {"created": "2024-01-01"},
        {"author": 5},
        {"os.version": 10},
        {"os.features": "a"},
        *({"config": {name: 5}} for name in GOOD_CONFIG if name != "SomethingNew"),
        {"config": {"env": 5}},
        {"Config": 5},
        {"config": {"Env": [1]}},
        {"config": {"Cmd": [None, 1]}},
        {"config": {"Labels": {"a": 1}}},
        {"config": {"Labels": {"a": ["b"]}}},
        {"config": {"Volumes": {"/data": 1}}},
        {"config": {"ExposedPorts": ["80/tcp"]}},
        {"config": {"ExposedPorts": {"80/tcp": ""}}},
        {"config": {"Healthcheck": {"Test": "true"}}},
        {"config": {"Healthcheck": {"Interval": "30s"}}},
        {"config": {"Healthcheck": {"Retries": 1.5}}},
        {"config": {"Healthcheck": {"Retries": True}}},
        {"config": {"Healthcheck": {"Timeout": 2**63}}},
    ],
    ids=str,
)
def test_configs_that_would_break_the_engines_listing(fields: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match=r"^the thing"):
        parse_config(image_config(**fields), "the thing")


@given(
    st.sampled_from(["os", "architecture", "variant", "rootfs", "config", "history", "created"]),
    JSON,
    st.sampled_from(sorted(GOOD_CONFIG)),
    JSON,
)
def test_a_config_with_anything_anywhere_is_read_or_refused(
    name: str, value: object, inner: str, inner_value: object
) -> None:
    fields = {"config": {inner: inner_value}, name: value}
    try:
        parse_config(image_config(**fields), "the thing")
    except IntegrityError as error:
        assert str(error).startswith("the thing")


@given(st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^the thing"):
        parse_config(data, "the thing")


def test_times_that_go_knows_and_python_does_not() -> None:
    for created in ("0000-02-29T00:00:00Z", "9999-12-31T23:59:59.999999999-23:59"):
        assert parse_config(image_config(created=created), "x")
