"""The device's look at a channel: what it costs, what it keeps, and which root it begins with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from trustparts import tree
from tufworld import Answer, Memory, World

from composeapps import tufclient
from composeapps.errors import ConfigError, SourceError, TrustError
from composeapps.trustcache import TrustCache

YEAR = 365


def test_first_look_then_nothing_new_then_a_new_release(world: World) -> None:
    first = world.check()
    assert first.changed
    assert first.release.version == 1
    assert first.raw == next(world.file("targets/stable").iterdir()).read_bytes()
    world.server.asked()
    again = world.check()
    assert again.release == first.release
    assert not again.changed
    assert world.server.requests == ["metadata/timestamp.json"]
    assert world.server.wire < 1024
    world.release(letter="b")
    new = world.check()
    assert new.changed
    assert new.release.version == 2
    assert new.digest != first.digest


def test_no_change_is_one_request_also_without_entity_tags(world: World) -> None:
    world.server.etags = False
    world.check()
    world.server.asked()
    assert not world.check().changed
    assert world.server.requests == ["metadata/timestamp.json"]
    assert world.server.wire < 4096


def test_a_look_with_nothing_new_writes_nothing(world: World, tmp_path: Path) -> None:
    world.check()
    before = tree(world.cache)
    puts: list[str] = []
    world.memory.put = lambda key, value: puts.append(key)  # type: ignore[method-assign]
    world.check()
    assert tree(world.cache) == before
    assert puts == []


def test_a_changed_entity_tag_with_the_same_bytes_is_nothing_new(world: World) -> None:
    world.check()
    tags = iter(f'"{number}"' for number in range(9))

    def moody(name: str, limit: int, etag: str) -> Answer | None:
        if name != "metadata/timestamp.json":
            return None
        return Answer(200, world.file(name).read_bytes(), next(tags))

    world.server.hook = moody
    world.server.asked()
    for _ in range(3):
        assert not world.check().changed
    assert world.server.requests == ["metadata/timestamp.json"] * 3


def test_a_refreshed_timestamp_alone_is_no_change(world: World) -> None:
    world.check()
    world.pass_days(1)
    world.refresh()
    world.server.asked()
    assert not world.check().changed
    # The snapshot was not due: nothing but the next root is asked for.
    assert world.server.requests == ["metadata/timestamp.json", "metadata/2.root.json"]


@pytest.mark.parametrize("tag", ['"' + "x" * 300 + '"', "no quotes", '"a\r\nX: y"', "W/", '"ä"'])
def test_odd_entity_tags_are_never_sent_back(world: World, tag: str) -> None:
    sent: list[str] = []

    def odd(name: str, limit: int, etag: str) -> Answer | None:
        sent.append(etag)
        path = world.file(name)
        return Answer(200, path.read_bytes(), tag) if path.exists() else None

    world.server.hook = odd
    world.check()
    world.check()
    assert set(sent) == {""}


def test_an_entity_tag_is_only_for_its_own_url_and_timestamp(world: World) -> None:
    world.check()
    cache = TrustCache(world.cache)
    url = "https://maker.example/metadata/timestamp.json"
    assert cache.etag(url)
    assert not cache.etag("https://other.example/metadata/timestamp.json")
    timestamp = world.cache / "current" / "metadata" / "timestamp.json"
    timestamp.write_bytes(timestamp.read_bytes() + b" ")
    assert not cache.etag(url)


def test_304_that_nobody_asked_for_is_the_servers_fault(world: World) -> None:
    unasked = Answer(304, b"", "")
    world.server.hook = lambda *_: unasked
    with pytest.raises(SourceError, match="unchanged"):
        world.check()
    world.server.hook = None
    world.server.etags = False
    world.check()
    world.server.hook = lambda *_: unasked
    with pytest.raises(SourceError, match="unchanged"):
        world.check()
    world.server.hook = lambda name, *_: None if "timestamp" in name else unasked
    world.release(letter="b")
    with pytest.raises(SourceError, match="unchanged"):
        world.check()


def test_load_needs_no_server_and_no_valid_expiry(world: World) -> None:
    with pytest.raises(TrustError, match="never checked"):
        world.trust().load("stable")
    found = world.check()

    def dead(*_: object) -> Answer:
        raise AssertionError("asked")

    world.pass_days(10 * YEAR)
    loaded = world.trust(get=dead).load("stable")
    assert loaded.release == found.release
    assert loaded.digest == found.digest
    with pytest.raises(TrustError, match="never checked"):
        world.trust(get=dead).load("other")


def test_load_does_not_trust_the_disk(world: World) -> None:
    world.check()
    path = world.cache / "current" / "targets" / "stable" / "release.json"
    path.write_bytes(path.read_bytes().replace(b"aaaa", b"bbbb"))
    with pytest.raises(TrustError, match="no trusted release"):
        world.trust().load("stable")
    assert world.check().changed


def test_a_factory_cache_serves_until_the_first_look(world: World, tmp_path: Path) -> None:
    world.rotate("root")
    world.check()
    factory = tmp_path / "factory"
    world.trust().export("stable", factory)
    one = tree(factory)
    world.trust().export("stable", factory)
    assert tree(factory) == one
    for path in factory.rglob("*"):
        path.chmod(path.stat().st_mode & 0o555)
    fresh: dict[str, Any] = {
        "directory": tmp_path / "new",
        "memory": Memory(),
        "factory": factory,
    }
    assert world.trust(**fresh).load("stable").release.version == 1
    world.server.asked()
    assert not world.trust(**fresh).check("stable").changed
    # Only the factory's release would have been fetched, and it is here already.
    asked = world.server.asked()
    assert asked == ["metadata/timestamp.json"]
    world.release(letter="b")
    assert world.trust(**fresh).check("stable").release.version == 2
    assert world.trust(**fresh).load("stable").release.version == 2
    shutil.rmtree(tmp_path / "new")
    assert world.trust(**fresh).load("stable").release.version == 1


def test_factory_release_is_the_first_floor(world: World, tmp_path: Path) -> None:
    world.release(letter="b", version=7)
    world.check()
    world.trust().export("stable", tmp_path / "factory")

    def older(targets: Any) -> None:
        old = sorted(world.file("targets/stable").iterdir(), key=lambda path: path.stat().st_ino)
        info = next(path for path in old if b'"version": 1' in path.read_bytes())
        targets.targets["stable/release.json"] = target(info)

    world.forge({"stable": older})
    with pytest.raises(TrustError, match="offers release 1, this device has seen 7"):
        world.check(directory=tmp_path / "n", memory=Memory(), factory=tmp_path / "factory")


def target(path: Path) -> Any:
    """List a file of the repository as the release of stable."""
    from tuf.api.metadata import TargetFile

    return TargetFile.from_data("stable/release.json", path.read_bytes(), ["sha256"])


@pytest.mark.parametrize("name", ["../x", "root", "a/b", "", "A"])
def test_channel_names_are_checked_before_anything(world: World, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a channel"):
        world.check(name)
    assert world.server.requests == []


def test_an_unknown_channel_says_so(world: World) -> None:
    with pytest.raises(TrustError, match="no release of channel beta"):
        world.check("beta")


def test_two_channels_in_turn(world: World) -> None:
    world.add_channel("beta", own=False)
    world.release("beta", "c")
    for _ in range(2):
        assert world.check("stable").release.channel == "stable"
        assert world.check("beta").release.apps["web"].artifact.endswith("c" * 64)


@pytest.mark.parametrize("root", [b"", b"{}", b"[" * 100_000, b"\xff", b"null"])
def test_a_bad_root_in_the_image_says_so(world: World, root: bytes) -> None:
    with pytest.raises(TrustError, match="root that the image carries"):
        world.check(root=root)


def test_a_newer_root_in_the_image(world: World) -> None:
    world.rotate("root")
    world.rotate("timestamp")
    world.check()
    newest = world.file("metadata/3.root.json").read_bytes()
    assert world.trust(root=newest).load("stable")
    shutil.rmtree(world.cache)
    assert world.check(root=newest).release.version == 1
    assert not (world.cache / "roots").exists()


def test_an_image_for_another_repository_begins_anew(world: World, tmp_path: Path) -> None:
    world.check()
    other = World(tmp_path / "other")
    other.add_channel()
    other.release(letter="e")
    found = other.check(directory=world.cache)
    assert found.release.apps["web"].artifact.endswith("e" * 64)


def test_more_rotations_than_one_look_takes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.check()
    monkeypatch.setattr(tufclient, "ROTATIONS", 4)
    for _ in range(10):
        world.rotate("timestamp", "root", old_too=False)
    tries = 0
    while True:
        tries += 1
        try:
            world.check()
            break
        except TrustError:
            assert tries < 5
    assert tries > 1
