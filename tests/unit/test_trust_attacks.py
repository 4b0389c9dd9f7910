"""Attacks on the update path, through the real client: every one is refused and leaves no trace.

The names of the attacks are those of the TUF specification, section 1.5.2. An attacker holds the
keys that a test gives to ``forge``, and the server in any case.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from attacks import STABLE, refused, serve, two_channels
from securesystemslib.signer import Signer
from tuf.api.metadata import MetaFile
from tufworld import Answer, World, apps, of, signer

from composeapps.errors import NotFoundError, SourceError, TrustError
from composeapps.release import Release


@pytest.fixture
def world(tmp_path: Path) -> World:
    return two_channels(tmp_path)


def test_rollback_to_an_older_repository(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.directory / "repo", tmp_path / "old")
    world.release(letter="c")
    world.check()
    world.server.directory = tmp_path / "old"
    refused(world, "older metadata than this device has seen")


def test_rollback_of_the_snapshot_with_the_timestamp_key(world: World) -> None:
    old = world.metadata("timestamp").signed.snapshot_meta
    world.release(letter="c")
    world.check()

    def back(timestamp: Any) -> None:
        timestamp.snapshot_meta = old

    metadata = world.metadata("timestamp")
    world._forged("timestamp", metadata, back, {})
    refused(world, "older metadata than this device has seen")


def test_rollback_of_a_channel_with_the_online_keys(world: World) -> None:
    old = world.metadata("snapshot").signed.meta["stable.json"]
    world.release(letter="c")
    world.check()

    def back(snapshot: Any) -> None:
        snapshot.meta["stable.json"] = old

    world.forge({"snapshot": back})
    refused(world, "older metadata than this device has seen")


def test_older_release_under_newer_metadata(world: World) -> None:
    old = world.check().raw
    world.release(letter="c")
    world.check()
    world.forge({"stable": serve(world, old)})
    refused(world, "offers release 1, this device has seen 2")


def test_a_release_that_changes_under_its_version(world: World) -> None:
    world.forge({"stable": serve(world, Release("stable", 1, apps("d")).to_bytes())})
    refused(world, "has changed since it was first seen")


@pytest.mark.parametrize("kind", ["304", "same bytes", "same bytes, other tag"])
def test_freeze_bites_when_the_timestamp_expires(world: World, kind: str) -> None:
    frozen = world.file("metadata/timestamp.json").read_bytes()

    def freeze(name: str, limit: int, etag: str) -> Answer | None:
        if name.endswith(".root.json"):
            raise NotFoundError(name)
        if name != "metadata/timestamp.json":
            return None
        if kind == "304" and etag:
            return Answer(304, b"", etag)
        return Answer(200, frozen, '"x"' if "other" in kind else "")

    world.release(letter="c")
    world.server.hook = freeze
    world.pass_days(6)
    assert not world.check().changed
    world.pass_days(2)
    refused(world, "timestamp.json is expired")
    world.server.hook = None
    world.refresh()
    assert world.check().changed


def test_mix_and_match(world: World, tmp_path: Path) -> None:
    """Every versioned file of a new state in turn comes from the old one."""
    old = {role: world.metadata(role).to_bytes() for role in ("snapshot", "targets", "stable")}
    world.rotate("targets")
    world.release(letter="c")
    for role, data in old.items():
        name = f"metadata/{world.metadata(role).signed.version}.{role}.json"
        world.server.replaced = {name: data}
        refused(world, "do not belong together|larger than", (TrustError, SourceError))
    info = world.metadata("stable").signed.targets[STABLE]
    old_release = world.trust().load("stable").raw
    world.server.replaced = {f"targets/{info.get_prefixed_paths()[0]}": old_release}
    refused(world, "do not belong together")
    world.server.replaced = {}
    assert world.check().release.version == 2


def test_metadata_of_one_role_served_as_another(world: World) -> None:
    world.refresh()
    world.release(letter="c")
    names = [path.name for path in world.file("metadata").iterdir()]
    good = world.file("metadata/timestamp.json").read_bytes()
    for name in names:
        data = world.file(f"metadata/{name}").read_bytes()
        if data != good:
            world.server.replaced = {"metadata/timestamp.json": data}
            refused(world)
            world.server.replaced = {"metadata/2.root.json": data}
            refused(world)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "stable"])
def test_wrong_keys(world: World, role: str) -> None:
    thief = signer()
    world.forge({role: lambda _: None}, signed_by={role: [thief]})
    refused(world, "signatures do not chain")
    # Its own key ID replaced by the right one: a signature that does not verify.
    right = world.signers(role)[0].public_key.keyid
    thief.public_key.keyid = right
    world.forge({role: lambda _: None}, signed_by={role: [thief]})
    refused(world, "signatures do not chain")


def test_keys_of_one_role_do_not_sign_another(world: World) -> None:
    for role in ("timestamp", "snapshot", "targets", "stable"):
        for other in ("root", "timestamp", "snapshot", "targets", "stable", "beta"):
            if other != role:
                world.forge({role: lambda _: None}, signed_by={role: world.signers(other)})
                refused(world, "signatures do not chain")


def test_threshold_not_met(world: World) -> None:
    first, second = signer(), signer()
    world.keys["stable"] = [first, second]
    changes = {"stable": of(first, second, threshold=2)}
    assert world.repository.rotate(changes, world.online("targets", "stable")).published
    world.release(letter="c")
    world.check()
    world.forge({"stable": lambda _: None}, signed_by={"stable": [first]})
    refused(world, "signatures do not chain")
    world.forge({"stable": lambda _: None}, signed_by={"stable": [first, second]})
    assert world.check().release.version == 2


def test_one_signature_twice_is_not_two(world: World) -> None:
    first, second = signer(), signer()
    world.keys["stable"] = [first, second]
    changes = {"stable": of(first, second, threshold=2)}
    assert world.repository.rotate(changes, world.online("targets", "stable")).published
    world.check()
    world.forge({"stable": lambda _: None}, signed_by={"stable": [first]})
    name = f"metadata/{world.metadata('stable').signed.version}.stable.json"
    value = json.loads(world.file(name).read_bytes())
    value["signatures"] *= 2
    data = json.dumps(value).encode()
    world.file(name).write_bytes(data)

    def meta(snapshot: Any) -> None:
        version = value["signed"]["version"]
        snapshot.meta["stable.json"] = MetaFile.from_data(version, data, ["sha256"])

    world.forge({"snapshot": meta})
    refused(world)


def test_root_rotation_over_three_steps(world: World) -> None:
    for _ in range(3):
        world.rotate("root", "targets", "snapshot", "timestamp", "stable")
    world.release(letter="c")
    assert world.check().release.version == 2
    assert sorted(path.name for path in (world.cache / "roots").iterdir()) == [
        "2.root.json",
        "3.root.json",
        "4.root.json",
    ]
    world.server.asked()
    world.check()
    assert world.server.requests == ["metadata/timestamp.json"]


def test_a_hidden_root_in_the_middle_stops_the_chain(world: World) -> None:
    for _ in range(3):
        world.rotate("root", "timestamp", old_too=False)
    world.server.missing = {"metadata/3.root.json"}
    refused(world, "signatures do not chain")
    world.server.missing = set()
    world.check()


def test_the_held_release_outlives_a_rotation_that_does_not_arrive(world: World) -> None:
    """Newer roots are kept, the set they belong to never comes: the old one can still be read."""
    world.rotate("snapshot", "timestamp", old_too=False)
    held = world.check().digest
    for _ in range(2):
        world.rotate("root", "targets", "snapshot", "timestamp", "stable", old_too=False)
    version = world.metadata("snapshot").signed.version
    world.server.missing = {f"metadata/{version}.snapshot.json"}
    with pytest.raises(NotFoundError):
        world.check()
    assert len(list((world.cache / "roots").iterdir())) == 3
    assert world.trust().load("stable").digest == held
    world.server.missing = set()
    world.check()


def test_a_root_out_of_sequence(world: World) -> None:
    for _ in range(2):
        world.rotate("root")
    third = world.file("metadata/3.root.json").read_bytes()
    world.server.replaced = {"metadata/2.root.json": third}
    refused(world, "older metadata|signatures do not chain")


@pytest.mark.parametrize("who", ["new keys only", "old keys only", "nobody", "one of two"])
def test_a_root_without_the_signatures_it_needs(world: World, who: str) -> None:
    old, new = world.signers("root"), [signer(), signer()]
    choices: dict[str, list[Signer]] = {
        "new keys only": [*new],
        "old keys only": old,
        "nobody": [],
        "one of two": [*old, new[0]],
    }

    def take_over(root: Any) -> None:
        for keyid in list(root.roles["root"].keyids):
            root.revoke_key(keyid, "root")
        for one in new:
            root.add_key(one.public_key, "root")
        root.roles["root"].threshold = 2

    metadata = world.metadata("root")
    world._forged("root", metadata, take_over, {"root": choices[who]})
    world.forge({"snapshot": lambda _: None})
    refused(world, "signatures do not chain")


def test_a_root_for_thieves_signed_by_thieves(world: World, tmp_path: Path) -> None:
    """A whole repository of the attacker, under the same URL and version numbers."""
    other = World(tmp_path / "thief")
    other.add_channel()
    other.release(letter="e")
    other.rotate("root")
    world.server.directory = other.directory / "repo"
    refused(world, "signatures do not chain")
