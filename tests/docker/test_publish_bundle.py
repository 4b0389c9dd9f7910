"""Bundles: what preloads without network and Compose, holds what was named, is judged again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from publishparts import AMD, Maker, project, tree_hash


def bundled(maker: Maker, layout: Path, *more: object) -> tuple[Path, str]:
    """Publish an app for two platforms, release it, bundle it for one; return bundle and app."""
    source = project(maker.directory / "shop", "registry.test")
    out = ("--images", layout, "--output", maker.site / "oci")
    made = maker.json("app", source, "registry.test/apps/shop", *out, *maker.cache)
    maker.init()
    maker.release(made["artifact"])
    bundle = maker.directory / "bundle"
    maker.run("bundle", maker.site, "stable", *AMD, "--output", bundle, *maker.cache, *more)
    return bundle, str(made["artifact"])


def test_a_bundle_gives_the_factory_store_that_its_repository_gives(
    maker: Maker, layout: Path, tmp_path: Path
) -> None:
    bundle, app = bundled(maker, layout)
    assert sorted(os.listdir(bundle)) == ["metadata", "oci", "targets"]
    store = ("--output", tmp_path / "one", *AMD, *maker.cache)
    maker.run("preload", maker.site, "stable", *store)
    maker.site.rename(tmp_path / "away")
    # No Compose, no network, ten years later.
    bare = ("--offline", "--compose", "/nonexistent", "--time", "0")
    store = ("--output", tmp_path / "two", *AMD, *maker.cache)
    maker.run("preload", bundle, "stable", *store, *bare)
    assert tree_hash(tmp_path / "one") == tree_hash(tmp_path / "two")
    # Only what one platform needs.
    assert len(list((bundle / "oci/blobs/sha256").iterdir())) < len(
        list((tmp_path / "away/oci/blobs/sha256").iterdir())
    )
    again = ("--output", tmp_path / "three", *AMD, *maker.cache, "--app", f"shop={app}")
    maker.run("bundle", bundle, "stable", *again, "--compose", "/nonexistent")
    assert tree_hash(tmp_path / "three") == tree_hash(bundle)
    assert "exists" in maker.run("bundle", bundle, "stable", *again, code=2)


def test_a_bundle_holds_nothing_else_than_what_was_named(
    maker: Maker, layout: Path, tmp_path: Path
) -> None:
    bundle, app = bundled(maker, layout)
    words = ("bundle", bundle, "stable", "--output", tmp_path / "new", *maker.cache)
    other = app[:-1] + ("0" if app[-1] != "0" else "1")
    assert other in maker.run(*words, *AMD, "--app", f"shop={other}", code=3)
    said = maker.run(*words, *AMD, "--app", f"shop={app}", "--app", f"till={app}", code=3)
    assert "no such app as app till" in said
    digest = f"sha256:{'0' * 64}"
    assert digest in maker.run(*words, *AMD, "--release", digest, code=3)
    (signed,) = (bundle / "targets/stable").iterdir()
    maker.run(*words, *AMD, "--release", f"sha256:{signed.name.split('.')[0]}")
    shutil.rmtree(tmp_path / "new")
    said = maker.run(*words, "--platform", "linux/riscv64", code=3)
    assert "app shop is published for linux/amd64, linux/arm64, not for linux/riscv64" in said
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"bundle", "cache", "images", "keys", "shop", "site"}


def test_damage_in_a_bundle_stops_a_preload_and_is_not_reused(
    maker: Maker, layout: Path, tmp_path: Path
) -> None:
    bundle, _ = bundled(maker, layout)
    largest = max((bundle / "oci/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    good = largest.read_bytes()
    largest.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    store = ("--output", tmp_path / "factory", *AMD, "--cache", tmp_path / "fresh")
    said = maker.run("preload", bundle, "stable", *store, "--offline", code=6)
    assert f"{largest} is damaged" in said
    words = ("--output", tmp_path / "new", *AMD, *maker.cache, "--reuse", tmp_path)
    maker.run("bundle", maker.site, "stable", *words)
    assert (tmp_path / "new/oci/blobs/sha256" / largest.name).read_bytes() == good
    largest.unlink()
    said = maker.run("preload", bundle, "stable", *store, "--offline", code=3)
    assert f"lacks sha256:{largest.name}" in said
    assert not (tmp_path / "factory").exists()
