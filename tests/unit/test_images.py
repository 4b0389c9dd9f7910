"""Walking an image from its digest: the right platform, and nothing that could go on for ever."""

from __future__ import annotations

import json
from typing import Any

import pytest
from blobs import LINUX, OCI_CONFIG, Blobs
from hypothesis import given
from hypothesis import strategies as st

from composeapps import images
from composeapps.errors import ComposeAppsError, ConfigError, IntegrityError
from composeapps.oci import (
    OCI_INDEX,
    OCI_MANIFEST,
    Platform,
    Reference,
    chain_ids,
    digest_of,
)

AMD64 = Platform("linux", "amd64")
ARM64 = {"os": "linux", "architecture": "arm64"}
V6 = {"os": "linux", "architecture": "arm", "variant": "v6"}
V7 = {"os": "linux", "architecture": "arm", "variant": "v7"}
UNKNOWN = {"os": "unknown", "architecture": "unknown"}
IN_TOTO = "application/vnd.in-toto+json"


def walk(blobs: Blobs, descriptor: dict[str, Any], platform: Platform = AMD64) -> images.Image:
    reference = Reference("example.com", "app", "", descriptor["digest"])
    return images.walk(reference, platform, blobs.read)


def attestation(blobs: Blobs) -> dict[str, Any]:
    """Add what buildx puts beside every image."""
    return blobs.image([b"{}"], UNKNOWN, layer_type=IN_TOTO)


def test_plain_manifest() -> None:
    blobs = Blobs()
    descriptor = blobs.image([b"one", b"two", b"one"])
    image = walk(blobs, descriptor)
    assert image.reference.pinned() == f"example.com/app@{descriptor['digest']}"
    assert [item.media_type for item in image.documents] == [OCI_MANIFEST, OCI_CONFIG]
    diff_ids = [digest_of(b"one"), digest_of(b"two"), digest_of(b"one")]
    assert [layer.diff_id for layer in image.layers] == diff_ids
    assert [layer.chain_id for layer in image.layers] == chain_ids(diff_ids)
    blob_bytes = sum(len(data) for data in blobs.values())
    assert image.download == blob_bytes  # the layer that is there twice counts once


def test_index_with_attestations_gives_the_platform_only() -> None:
    blobs = Blobs()
    arm, amd = blobs.image([b"arm"], ARM64), blobs.image([b"amd"])
    top = blobs.index([arm, attestation(blobs), amd, attestation(blobs)])
    seen = []

    def read(reference: Reference, digest: str, limit: int, kind: images.Kind) -> bytes:
        seen.append((digest, kind))
        return blobs[digest]

    reference = Reference("example.com", "app", "", top["digest"])
    image = images.walk(reference, AMD64, read)
    assert [item.digest for item in image.documents][:2] == [top["digest"], amd["digest"]]
    assert image.documents[0].media_type == OCI_INDEX
    kinds = ["manifest", "manifest", "blob"]
    assert seen == list(zip([item.digest for item in image.documents], kinds, strict=True))


def test_missing_platform_is_named_with_those_there_are() -> None:
    blobs = Blobs()
    top = blobs.index([blobs.image([b"arm"], ARM64), attestation(blobs), blobs.image([b"7"], V7)])
    with pytest.raises(ConfigError, match="nothing for linux/amd64; it has linux/arm/v7, linux/ar"):
        walk(blobs, top)
    with pytest.raises(ConfigError, match="nothing for linux/amd64; it has linux/arm64"):
        walk(blobs, blobs.image([b"arm"], ARM64))


def test_arm_takes_the_best_variant_that_runs() -> None:
    blobs = Blobs()
    six, seven = blobs.image([b"6"], V6), blobs.image([b"7"], V7)
    top = blobs.index([six, seven])
    v7, v6, v5 = (Platform("linux", "arm", variant) for variant in ("v7", "v6", "v5"))
    assert walk(blobs, top, v7).documents[1].digest == seven["digest"]
    assert walk(blobs, top, v6).documents[1].digest == six["digest"]
    assert walk(blobs, blobs.index([six]), v7).documents[1].digest == six["digest"]
    with pytest.raises(ConfigError, match="nothing for linux/arm/v5"):
        walk(blobs, top, v5)


def test_first_of_two_equal_platforms_counts() -> None:
    blobs = Blobs()
    first, second = blobs.image([b"1"]), blobs.image([b"2"])
    assert walk(blobs, blobs.index([first, second])).documents[1].digest == first["digest"]


def test_entries_without_platform_are_looked_into_last() -> None:
    blobs = Blobs()
    plain = {**blobs.image([b"plain"])}
    del plain["platform"]
    arm = {**blobs.image([b"arm"], ARM64)}
    del arm["platform"]
    named = blobs.image([b"named"])
    artifact = blobs.artifact([])
    assert walk(blobs, blobs.index([artifact, arm, plain])).documents[1].digest == plain["digest"]
    assert walk(blobs, blobs.index([plain, named])).documents[1].digest == named["digest"]


def test_nested_indexes_are_followed_and_all_kept() -> None:
    blobs = Blobs()
    inner = blobs.index([blobs.image([b"arm"], ARM64), blobs.image([b"amd"])])
    image = walk(blobs, blobs.index([blobs.index([inner])]))
    assert len(image.documents) == 5
    assert image.documents[2].digest == inner["digest"]


def test_nesting_is_bounded() -> None:
    blobs = Blobs()
    deep = blobs.image([b"amd"])
    for _ in range(images.DEPTH + 1):
        deep = blobs.index([deep])
    with pytest.raises(ConfigError, match="nested more than"):
        walk(blobs, deep)


def test_one_document_named_exponentially_often_is_bounded() -> None:
    blobs = Blobs()
    arm = {**blobs.image([b"arm"], ARM64)}
    del arm["platform"]
    wide = blobs.index([arm] * 1000)
    wide = blobs.index([wide] * 1000)
    with pytest.raises(ConfigError, match="more than 16 nested documents"):
        walk(blobs, blobs.index([wide] * 1000))


def test_many_documents_are_bounded() -> None:
    blobs = Blobs()
    entries = [blobs.image([str(number).encode()], ARM64) for number in range(20)]
    for entry in entries:
        del entry["platform"]
    with pytest.raises(ConfigError, match="more than 16 nested documents"):
        walk(blobs, blobs.index(entries))


def test_index_and_config_that_contradict_each_other() -> None:
    blobs = Blobs()
    lying = {**blobs.image([b"arm"], ARM64), "platform": LINUX}
    with pytest.raises(ConfigError, match="index says linux/amd64, the config there linux/arm64"):
        walk(blobs, blobs.index([lying]))
    # Official images of 32-bit ARM have configs without variant: that is not held against them.
    old = {**blobs.image([b"6"], {"os": "linux", "architecture": "arm"}), "platform": V6}
    walk(blobs, blobs.index([old]), Platform("linux", "arm", "v6"))


def test_layers_and_diff_ids_have_to_be_as_many() -> None:
    blobs = Blobs()
    with pytest.raises(IntegrityError, match="0 layers but 1 diff IDs"):
        walk(blobs, blobs.image([b"one"], layers=[]))


@pytest.mark.parametrize(
    "layer_type",
    [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "",
    ],
)
def test_layers_that_cannot_be_had_are_refused(layer_type: str) -> None:
    blobs = Blobs()
    with pytest.raises(ConfigError, match="has a layer of type"):
        walk(blobs, blobs.image([b"one"], layer_type=layer_type))


def test_an_artifact_is_not_an_image() -> None:
    blobs = Blobs()
    with pytest.raises(ConfigError, match="is not an image but 'application/vnd"):
        walk(blobs, blobs.artifact([]))


def test_content_that_lies_is_refused() -> None:
    blobs = Blobs()
    descriptor = blobs.index([blobs.image([b"one"])])
    image = walk(blobs, descriptor)
    for item in image.documents:
        right = blobs[item.digest]
        blobs[item.digest] = right + b" "
        with pytest.raises(IntegrityError, match="is not what its digest or size says"):
            walk(blobs, descriptor)
        blobs[item.digest] = right
    wrong_size = {**blobs.image([b"one"]), "size": 5}
    with pytest.raises(IntegrityError, match="is not what its digest or size says"):
        walk(blobs, blobs.index([wrong_size]))
    huge = {**blobs.image([b"one"]), "size": 2**40}
    with pytest.raises(ConfigError, match="has a document over"):
        walk(blobs, blobs.index([huge]))


@given(st.data())
def test_any_change_of_a_document_gives_an_answer(data: st.DataObject) -> None:
    blobs = Blobs()
    odd: st.SearchStrategy[Any] = st.sampled_from(
        [None, [], {}, "", 0, -1, 2**70, True, "application/json", [[]]]
    )
    manifest = json.loads(blobs[blobs.image([b"one"])["digest"]])
    target = data.draw(st.sampled_from(["manifest", "index"]))
    if target == "manifest":
        place = data.draw(st.sampled_from([manifest, manifest["config"], manifest["layers"][0]]))
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(odd)
        top = blobs.put_json(manifest, OCI_MANIFEST)
    else:
        entry = blobs.image([b"one"])
        entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(odd)
        top = blobs.index([entry])
    try:
        walk(blobs, top)
    except (ComposeAppsError, KeyError):  # KeyError is the test's own reader
        return
