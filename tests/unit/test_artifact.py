"""The app artifact: what Docker's own publisher writes is read, what else there is, refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from blobs import Blobs
from hypothesis import given
from hypothesis import strategies as st

from composeapps import artifact
from composeapps.errors import ComposeAppsError, ConfigError, IntegrityError
from composeapps.oci import COMPOSE_CONFIG_1_0

EXTENDS = {"com.docker.compose.extends": "true"}


def parse(blobs: Blobs, descriptor: dict[str, Any]) -> artifact.Artifact:
    return artifact.parse(blobs[descriptor["digest"]], "app")


def test_docker_publish_artifact_is_read_in_override_order() -> None:
    # The shape that `docker compose publish --with-env --resolve-image-digests` writes.
    blobs = Blobs()
    found = parse(
        blobs,
        blobs.artifact(
            [
                blobs.compose_file("a: 1", "compose.yaml", **{"com.docker.compose.version": "2"}),
                blobs.compose_file("b: 1", "compose.override.yaml"),
                blobs.compose_file("c: 1", "0123.yaml", **EXTENDS),
                blobs.env_file("A=1", "abcd.env"),
                blobs.compose_file("d: 1", "image-digests.yaml"),
            ],
            annotations={"org.opencontainers.image.created": "2025-01-01T00:00:00Z"},
        ),
    )
    names = [file.name for file in found.compose]
    assert names == ["compose.yaml", "compose.override.yaml", "image-digests.yaml"]
    assert [file.name for file in found.beside] == ["0123.yaml", "abcd.env"]
    assert (found.tar, found.directory, found.env_files) == (None, ".", ())
    assert found.size == 4 * 4 + 3


def test_oci_1_0_artifact_is_known_by_its_config() -> None:
    blobs = Blobs()
    config = blobs.put(b"{}", COMPOSE_CONFIG_1_0)
    layers = [config, blobs.compose_file("a: 1")]
    found = parse(blobs, blobs.artifact(layers, artifactType="", config=config))
    assert [file.name for file in found.compose] == ["compose.yaml"]


def test_our_layers_and_annotations() -> None:
    blobs = Blobs()
    descriptor = blobs.artifact(
        [blobs.compose_file("a: 1", "web/compose.yaml"), blobs.files_tar(b"tar")],
        annotations={artifact.DIRECTORY: "web", artifact.ENV_FILES: '["web/.env", "b.env"]'},
    )
    found = parse(blobs, descriptor)
    assert found.directory == "web"
    assert found.env_files == ("web/.env", "b.env")
    assert found.tar is not None and found.tar.digest in {blob.digest for blob in found.blobs}


def test_dotenv_layer_is_interpolated_from_without_annotation() -> None:
    blobs = Blobs()
    layers = [blobs.compose_file("a: 1"), blobs.env_file("A=1", ".env")]
    assert parse(blobs, blobs.artifact(layers)).env_files == (".env",)


def test_same_base_name_twice_gets_two_files() -> None:
    blobs = Blobs()
    layers = [blobs.compose_file("a: 1"), blobs.compose_file("b: 1"), blobs.compose_file("c: 1")]
    names = [file.name for file in parse(blobs, blobs.artifact(layers)).compose]
    assert names == ["compose.yaml", "2-compose.yaml", "3-compose.yaml"]


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a//b", "a/./b", "a/..", "", ".", "a\\b", "a\nb", "a\x7f", "x" * 256],
)
def test_names_that_could_lead_anywhere_are_refused(name: str) -> None:
    blobs = Blobs()
    with pytest.raises(ConfigError, match="file name that cannot be used"):
        parse(blobs, blobs.artifact([blobs.compose_file("a: 1", name)]))
    with pytest.raises(ConfigError, match="file name that cannot be used"):
        parse(blobs, blobs.artifact([blobs.compose_file("a: 1"), blobs.env_file("", name)]))


def test_surrogate_in_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="not UTF-8"):
        artifact.check_name("\ud800", "app")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"artifactType": "application/vnd.acme"}, "not a Compose app but 'application/vnd.acme'"),
        ({"artifactType": ""}, "not a Compose app"),
        ({"annotations": {artifact.DIRECTORY: "../x"}}, "cannot be used"),
        ({"annotations": {artifact.ENV_FILES: "["}}, "not JSON"),
        ({"annotations": {artifact.ENV_FILES: "[" * 100_000}}, "not JSON"),
        ({"annotations": {artifact.ENV_FILES: "[1]"}}, "not a list of names"),
        ({"annotations": {artifact.ENV_FILES: '{"a": 1}'}}, "not a list of names"),
        ({"annotations": {artifact.ENV_FILES: '["/etc/shadow"]'}}, "cannot be used"),
    ],
)
def test_what_is_no_app_is_refused(change: dict[str, Any], message: str) -> None:
    blobs = Blobs()
    with pytest.raises(ConfigError, match=message):
        parse(blobs, blobs.artifact([blobs.compose_file("a: 1")], **change))


def test_layers_are_bounded_and_known() -> None:
    blobs = Blobs()
    compose = blobs.compose_file("a: 1")
    tar = blobs.files_tar(b"x")
    for layers, message in (
        ([], "no Compose file"),
        ([compose, tar, tar], "more than one tar"),
        ([compose, {**tar, "size": artifact.TAR_LIMIT + 1}], "over 1 GiB"),
        ([{**compose, "size": artifact.FILE_LIMIT + 1}], "file over"),
        ([compose, blobs.put(b"x", "application/vnd.future")], "vnd.future.*does not know"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse(blobs, blobs.artifact(layers))


def test_an_image_and_an_index_are_told_apart() -> None:
    blobs = Blobs()
    image = blobs.image([b"x"])
    with pytest.raises(ConfigError, match="not a Compose app but"):
        parse(blobs, image)
    with pytest.raises(ConfigError, match="is an index"):
        parse(blobs, blobs.index([image]))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda c: (
            st.lists(c)
            | st.dictionaries(
                st.sampled_from(
                    ["schemaVersion", "mediaType", "layers", "config", "annotations", "digest"]
                ),
                c,
            )
        ),
    )
)
def test_any_json_gives_an_answer(value: Any) -> None:
    with pytest.raises(ComposeAppsError):
        artifact.parse(json.dumps(value).encode(), "app")


@given(st.binary())
def test_any_bytes_give_an_answer(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        artifact.parse(data, "app")
