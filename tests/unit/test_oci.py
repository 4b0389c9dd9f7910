"""OCI values from hostile documents: they are read as the engine reads them, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from composeapps import oci
from composeapps.errors import ConfigError, IntegrityError
from composeapps.oci import Descriptor, Platform, Reference

A, B, C = (oci.digest_of(letter.encode()) for letter in "abc")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def entry(**fields: Any) -> dict[str, Any]:
    return {"mediaType": oci.OCI_MANIFEST, "digest": A, "size": 1, **fields}


def manifest(**fields: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": entry(), "layers": [], **fields}).encode()


@pytest.mark.parametrize(
    "value",
    ["", "sha256:", "sha256:" + "A" * 64, A + "\n", A[:-1], A + "0", "sha512:" + "a" * 128,
     "SHA256:" + A[7:], None, 5, [A], "sha256:" + "é" * 64, "sha256:../" + "a" * 61],
)  # fmt: skip
def test_digests_that_are_none(value: object) -> None:
    with pytest.raises(ConfigError, match="not a sha256 digest"):
        oci.parse_digest(value)


def test_digest_of_known_bytes() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert oci.digest_of(b"") == f"sha256:{empty}"
    assert oci.hex_of(f"sha256:{empty}") == empty


@given(st.text() | st.from_regex(r"sha256:[0-9a-fA-F]{60,68}"))
def test_a_digest_is_one_or_is_refused(text: str) -> None:
    try:
        assert len(oci.hex_of(text)) == 64
    except ConfigError as error:
        assert len(str(error)) < 500


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/arm64", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
        ("linux/arm64/v9.0", "linux/arm64/v9"),
        ("linux/riscv64", "linux/riscv64"),
    ],
)
def test_platforms_have_containerds_names(text: str, normal: str) -> None:
    assert str(Platform.parse(text)) == normal
    assert Platform.parse(text).matches(Platform.parse(normal))


@pytest.mark.parametrize(
    "text", ["", "linux", "/", "linux/", "/arm64", "linux/arm/v7/x", "Linux/arm64", "linux/arm 64",
             "linux/arm64\n", "linux/" + "a" * 65],
)  # fmt: skip
def test_platforms_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="write it like linux/arm64"):
        Platform.parse(text)


def test_variants_are_not_mixed_up() -> None:
    v6, v7 = Platform.parse("linux/arm/v6"), Platform.parse("linux/arm/v7")
    assert not v6.matches(v7)
    assert Platform("linux", "arm").matches(v7)
    assert not Platform("windows", "amd64").matches(Platform.parse("linux/amd64"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("nginx", ("docker.io", "library/nginx", "", "")),
        ("nginx:1.27", ("docker.io", "library/nginx", "1.27", "")),
        ("docker.io/nginx", ("docker.io", "library/nginx", "", "")),
        ("index.docker.io/nginx", ("docker.io", "library/nginx", "", "")),
        ("acme/web", ("docker.io", "acme/web", "", "")),
        ("localhost/web", ("localhost", "web", "", "")),
        ("localhost:5000/web:1", ("localhost:5000", "web", "1", "")),
        ("host:5000/a/b/c", ("host:5000", "a/b/c", "", "")),
        ("Host/web", ("Host", "web", "", "")),
        ("[::1]:5000/web", ("[::1]:5000", "web", "", "")),
        ("10.0.0.1/web@" + A, ("10.0.0.1", "web", "", A)),
        ("example.com/a__b/c.d-e--f:T_1@" + A, ("example.com", "a__b/c.d-e--f", "T_1", A)),
    ],
)
def test_references_as_docker_reads_them(text: str, parts: tuple[str, ...]) -> None:
    assert Reference.parse(text) == Reference(*parts)


@pytest.mark.parametrize(
    "text",
    ["", ":", "@", "/", "a/", "/a", "a//b", "a:", "a:b:c", "a@", "a@b", "A", "a/B", "a b", "a\n",
     "a.", "-a", "a_", "a___b", "a:-1", "a:" + "x" * 129, "a@sha256:" + "0" * 63, "../a", "a/../b",
     "ho_st:1/a", "host:123456/a", "[::1/a", "https://host/a", "é/a", "a@" + A + "@" + A,
     "a/" * 600 + "a", "host:5000"],
)  # fmt: skip
def test_references_that_are_none(text: str) -> None:
    if text == "host:5000":  # a name with a tag, as Docker reads it
        assert Reference.parse(text).tag == "5000"
        return
    with pytest.raises(ConfigError) as caught:
        Reference.parse(text)
    assert len(str(caught.value)) < 300


@given(st.text(alphabet="aA0.-_:/@[]é \n", max_size=40) | st.text(max_size=80))
def test_a_reference_reads_back_as_itself_or_is_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except ConfigError:
        return
    assert Reference.parse(str(reference)) == reference
    pinned = Reference.parse(reference.pinned(A))
    assert (pinned.name, pinned.digest, pinned.tag) == (reference.name, A, "")


def test_only_a_digest_pins() -> None:
    with pytest.raises(ConfigError, match="not a sha256 digest"):
        Reference.parse("nginx:1.27").pinned()
    assert Reference.parse(f"nginx:1@{A}").pinned() == f"docker.io/library/nginx@{A}"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b'"a"', b"1", b"\xff{}", b'{"a": NaN}', b'{"a": -Infinity}',
     b"\xef\xbb\xbf{}", '{"a": 1}'.encode("utf-16"), b'{"a": "\xff"}', b"{}x",
     b'{"a":' * 100_000, b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_no_json_object_as_the_engine_reads_it(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^the thing is not "):
        oci.load_json(data, "the thing")


@pytest.mark.parametrize(
    "value",
    [None, [], "x", entry(size=-1), entry(size=True), entry(size=1.0), entry(size="1"),
     entry(size=2**48), entry(size=None), entry(mediaType=5), entry(digest="x"),
     entry(digest=None)],
)  # fmt: skip
def test_descriptors_that_are_none(value: object) -> None:
    with pytest.raises(IntegrityError, match=r"^the thing"):
        oci.descriptor(value, "the thing")


def test_descriptor_keeps_what_is_usable() -> None:
    value = entry(
        annotations={"b": "2", "a": "1", "number": 5},
        platform={"os": "linux", "architecture": "arm64", "variant": "v8", "os.version": "1"},
        urls=["https://example.com"],
    )
    read = oci.descriptor(value, "the thing")
    assert read == Descriptor(
        oci.OCI_MANIFEST, A, 1, {"a": "1", "b": "2"}, Platform("linux", "arm64")
    )
    assert list(read.to_json()["annotations"]) == ["a", "b"]
    platforms: list[Any] = [None, [], {"os": "linux"}, {"os": 1, "architecture": "arm64"}]
    for platform in platforms:
        assert oci.descriptor(entry(platform=platform), "x").platform is None


@pytest.mark.parametrize(
    "fields",
    [
        {"schemaVersion": 1},
        {"schemaVersion": "2"},
        {"schemaVersion": 2.0},
        {"schemaVersion": None},
        {"mediaType": oci.OCI_INDEX},
        {"mediaType": ["x"]},
        {"mediaType": {}},
        {"config": None},
        {"layers": None},
        {"layers": {}},
        {"layers": [1]},
        {"layers": [entry()] * (oci.LAYERS + 1)},
    ],
)
def test_manifests_that_are_none(fields: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match=r"^the thing"):
        oci.parse_manifest(manifest(**fields), "the thing")


def test_manifest_with_as_many_layers_as_overlay_takes() -> None:
    read = oci.parse_manifest(manifest(layers=[entry()] * oci.LAYERS, artifactType=5), "x")
    assert len(read.layers) == oci.LAYERS
    assert (read.media_type, read.artifact_type) == (oci.OCI_MANIFEST, "")


@pytest.mark.parametrize(
    "value",
    [
        {"schemaVersion": 2},
        {"schemaVersion": 2, "manifests": {}},
        {"schemaVersion": 1, "manifests": []},
        {"schemaVersion": 2, "manifests": [entry()] * (oci.INDEX_ENTRIES + 1)},
        {"schemaVersion": 2, "manifests": [None]},
    ],
)
def test_indexes_that_are_none(value: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match=r"^the thing"):
        oci.parse_index(json.dumps(value).encode(), "the thing")


def test_what_a_document_is_it_says_itself() -> None:
    index = {"schemaVersion": 2, "manifests": []}
    assert oci.is_index(json.dumps(index).encode(), "x")
    assert oci.is_index(json.dumps(index | {"mediaType": oci.OCI_INDEX}).encode(), "x")
    assert not oci.is_index(manifest(), "x")
    assert not oci.is_index(manifest(mediaType=oci.OCI_MANIFEST), "x")
    assert not oci.is_index(json.dumps({"mediaType": ["x"]}).encode(), "x")
    for both in (manifest(manifests=[]), json.dumps(index | {"config": {}}).encode()):
        with pytest.raises(IntegrityError, match="an index and a manifest at once"):
            oci.is_index(both, "x")


def test_a_platform_whose_names_are_no_words_counts_as_not_named() -> None:
    """A lone surrogate can neither be stored nor printed; escapes would reach a terminal."""
    for word in ("\ud800", "\x1b[2J", "x" * 100, "", "a b"):
        for name in ("os", "architecture", "variant"):
            platform = {"os": "linux", "architecture": "arm", "variant": "v7", name: word}
            read = oci.descriptor(entry(platform=platform), "x").platform
            assert read is None or (name, word) == ("variant", "")


@given(JSON, st.sampled_from([oci.parse_manifest, oci.parse_index, oci.is_index]))
def test_any_json_is_read_or_refused(value: object, parse: Any) -> None:
    try:
        parse(json.dumps(value).encode("utf-8"), "the thing")
    except IntegrityError as error:
        assert str(error).startswith("the thing")


@given(st.binary(max_size=64))
@example(b"{}")
def test_any_few_bytes_are_no_manifest_and_no_index(data: bytes) -> None:
    for parse in (oci.parse_manifest, oci.parse_index):
        with pytest.raises(IntegrityError):
            parse(data, "the thing")
    try:
        assert not oci.is_index(data, "the thing")  # an empty object is JSON, and no index
    except IntegrityError as error:
        assert str(error).startswith("the thing")


def test_chain_ids_of_the_specification() -> None:
    """image-spec, config: ``ChainID(A|B) = Digest(ChainID(A) + " " + DiffID(B))``."""
    assert oci.chain_ids([]) == []
    assert oci.chain_ids([A]) == [A]
    ab = oci.digest_of(f"{A} {B}".encode())
    assert oci.chain_ids([A, B, C]) == [A, ab, oci.digest_of(f"{ab} {C}".encode())]
    assert len(set(oci.chain_ids([A, A, A]))) == 3
