"""Blobs and sealed layers in plain directories: a final name means right bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composeapps.errors import ComposeAppsError, IntegrityError
from composeapps.oci import digest_of, hex_of
from composeapps.store import (
    SealedLayer,
    Store,
    Stores,
    layer_name,
    parse_layer_name,
    verify_layer,
)

DIFF, CHAIN, OTHER = (digest_of(letter.encode()) for letter in "dco")
DATA = b"a small document"
DIGEST = digest_of(DATA)
DIGESTS = st.binary(max_size=2).map(digest_of)


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    both = Stores(Store(tmp_path / "factory"), Store(tmp_path / "data"))
    both.factory.create()
    both.data.create()
    return both


def add_layer(store: Store, data: bytes, chain: str = "", diff: str = DIFF) -> SealedLayer:
    file = store.root / "new"
    file.write_bytes(data)
    return store.adopt_layer(file, diff, chain, digest_of(data))


@given(DIGESTS, st.just("") | DIGESTS, DIGESTS)
def test_a_layers_name_reads_back(diff: str, chain: str, digest: str) -> None:
    path = Path("/store/layers") / layer_name(diff, chain, digest)
    layer = parse_layer_name(path)
    assert layer == SealedLayer(path, diff, chain, digest)
    assert path.name == f"{layer.name}.erofs"


@pytest.mark.parametrize(
    "name",
    ["", ".erofs", "a.erofs", f"{'a' * 64}.erofs", ".".join(["a" * 64] * 2),
     ".".join(["a" * 64] * 4) + ".erofs", f"{'a' * 64}.{'g' * 64}.erofs",
     f"{'A' * 64}.{'a' * 64}.erofs", f"{'a' * 63}.{'a' * 64}.erofs",
     f".tmp-{'a' * 64}.{'a' * 64}.erofs", f"{'a' * 64}..{'a' * 64}.erofs",
     "\u0661" * 64 + f".{'a' * 64}.erofs"],
)  # fmt: skip
def test_names_that_are_no_layers(name: str) -> None:
    assert parse_layer_name(Path("/store/layers") / name) is None


@given(st.text(alphabet="a.erofs0", max_size=200))
def test_any_name_is_a_layers_or_not(name: str) -> None:
    layer = parse_layer_name(Path("/store") / name.replace("/", ""))
    assert layer is None or layer.digest.startswith("sha256:")


def test_only_digests_become_paths(stores: Stores) -> None:
    for name in ("../../etc/passwd", "sha256:../x", "", DIGEST.upper()):
        with pytest.raises(ComposeAppsError, match="not a sha256 digest"):
            stores.data.blob_path(name)
        with pytest.raises(ComposeAppsError, match="not a sha256 digest"):
            stores.find_layer(name, CHAIN)


def test_a_blob_stored_twice_is_written_once(stores: Stores) -> None:
    assert stores.data.put_blob(DATA) == DIGEST
    path = stores.data.blob_path(DIGEST)
    before = path.stat().st_ino
    stores.data.put_blob(DATA)
    assert path.stat().st_ino == before
    assert stores.read_blob(DIGEST, 100) == DATA


@pytest.mark.parametrize("damage", [b"", DATA[:-1], DATA + b"x", b"A" + DATA[1:]])
def test_a_damaged_blob_is_passed_over_for_a_good_one_and_written_anew(
    stores: Stores, damage: bytes
) -> None:
    path = stores.factory.blob_path(DIGEST)
    path.write_bytes(damage)
    with pytest.raises(IntegrityError, match=f"{DIGEST} is damaged in every local store"):
        stores.read_blob(DIGEST, 100)
    stores.data.put_blob(DATA)
    assert stores.read_blob(DIGEST, 100) == DATA
    stores.data.blob_path(DIGEST).write_bytes(damage)
    stores.data.put_blob(DATA)
    assert stores.read_blob(DIGEST, 100) == DATA


def test_a_blob_that_is_nowhere_or_too_large(stores: Stores) -> None:
    with pytest.raises(IntegrityError, match=f"{DIGEST} is missing in every local store"):
        stores.read_blob(DIGEST, 100)
    assert stores.find_blob(DIGEST) is None
    stores.data.put_blob(DATA)
    assert stores.read_blob(DIGEST, len(DATA)) == DATA
    with pytest.raises(IntegrityError, match="is damaged"):
        stores.read_blob(DIGEST, len(DATA) - 1)


def test_what_is_no_file_under_a_blobs_name_is_damage(stores: Stores) -> None:
    stores.factory.blob_path(DIGEST).mkdir()
    stores.data.blob_path(DIGEST).symlink_to(stores.data.blob_path(DIGEST))
    with pytest.raises(IntegrityError, match="is damaged"):
        stores.read_blob(DIGEST, 100)
    assert stores.find_blob(DIGEST) is None
    stores.data.put_blob(DATA)
    assert stores.read_blob(DIGEST, 100) == DATA


def test_the_factory_store_is_looked_at_first(stores: Stores) -> None:
    stores.factory.put_blob(DATA)
    stores.data.put_blob(DATA)
    assert stores.find_blob(DIGEST) == stores.factory.blob_path(DIGEST)
    add_layer(stores.data, b"sealed")
    factory = add_layer(stores.factory, b"sealed")
    assert stores.find_layer(DIFF, CHAIN) == factory
    stores.distrusted.add(str(factory.path))
    assert stores.find_layer(DIFF, CHAIN) == stores.data.find_layer(DIFF, CHAIN)
    assert stores.find_layer(DIFF, CHAIN) != factory


def test_a_layer_for_one_chain_serves_no_other(stores: Stores) -> None:
    mine = add_layer(stores.data, b"for the chain", CHAIN)
    assert stores.find_layer(DIFF, CHAIN) == mine
    assert stores.find_layer(DIFF, OTHER) is None
    assert stores.find_layer(OTHER, CHAIN) is None
    any_chain = add_layer(stores.data, b"for any")
    assert stores.find_layer(DIFF, OTHER) == any_chain


def test_a_layer_is_moved_whole_and_verified_by_its_name(stores: Stores) -> None:
    layer = add_layer(stores.data, b"x" * 3_000_000)
    assert not (stores.data.root / "new").exists()
    assert verify_layer(layer)
    for damage in (b"", b"x" * 2_999_999, b"x" * 2_999_999 + b"y"):
        layer.path.write_bytes(damage)
        assert not verify_layer(layer)
    layer.path.unlink()
    assert not verify_layer(layer)


def test_stores_that_are_not_there(tmp_path: Path) -> None:
    none = Stores(Store(tmp_path / "a"), Store(tmp_path / "b"))
    assert none.find_blob(DIGEST) is None
    assert none.find_layer(DIFF, CHAIN) is None
    assert list(none.data.all_layers()) == []
    assert list(none.data.all_blobs()) == []


def test_listing_passes_over_what_is_not_ours(stores: Stores) -> None:
    stores.data.put_blob(DATA)
    layer = add_layer(stores.data, b"sealed")
    for directory in (stores.data.blobs, stores.data.layers):
        for name in ("README", "z" * 64, "A" * 64, hex_of(DIGEST)[:-1]):
            (directory / name).write_bytes(b"")
    assert list(stores.data.all_blobs()) == [DIGEST]
    assert list(stores.data.all_layers()) == [layer]


def test_what_an_interrupted_run_left_is_cleared_away(stores: Stores) -> None:
    stores.data.put_blob(DATA)
    layer = add_layer(stores.data, b"sealed")
    (stores.data.blobs / ".tmp-x").write_bytes(b"half")
    (stores.data.layers / ".tmp-y").mkdir()
    stores.data.create()
    assert sorted(path.name for path in stores.data.root.rglob("*.*")) == [layer.path.name]
    assert stores.find_blob(DIGEST)


@pytest.mark.parametrize("how", ["adopt", "take"])
def test_a_layer_is_durable_before_it_gets_its_name(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    steps: list[str] = []
    layers = stores.data.layers

    def fsync(descriptor: int) -> None:
        steps.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")

    def replace(old: Path, new: Path) -> None:
        steps.append("name")
        os.rename(old, new)

    if how == "take":
        source = add_layer(stores.factory, DATA).path
        final = layers / source.name
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    if how == "take":
        stores.data.take(source, final, DIGEST)
        begun = f".tmp-{final.name}"
    else:
        add_layer(stores.data, DATA)
        begun = "new"
    assert steps[:3] == [f"sync {begun}", "name", "sync layers"]
