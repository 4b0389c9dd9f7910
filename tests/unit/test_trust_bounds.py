"""What a look accepts at the most: bytes, requests, channels, versions, expiry."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attacks import STABLE, refused, serve, two_channels
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile
from tufworld import Answer, World, apps, signer

from composeapps.errors import SourceError
from composeapps.publish.drafting import Expiry, save_settings
from composeapps.ratchet import Ratchet
from composeapps.release import LIMIT, Release
from composeapps.tufclient import CREATED


@pytest.fixture
def world(tmp_path: Path) -> World:
    return two_channels(tmp_path)


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "stable"])
def test_expired_metadata(world: World, role: str) -> None:
    def expired(signed: Any) -> None:
        signed.expires = world.time - timedelta(seconds=1)

    world.forge({role: expired})
    refused(world, f"(?i){role}.*is expired")


def test_no_request_ever_allows_more_than_the_ceilings(world: World) -> None:
    """Lengths in signed metadata are believed downwards only."""
    huge = 10**15

    def lengths(snapshot: Any) -> None:
        for meta in snapshot.meta.values():
            meta.length = huge

    def length(timestamp: Any) -> None:
        timestamp.snapshot_meta.length = huge

    limits: dict[str, int] = {}

    def note(name: str, limit: int, etag: str) -> Answer | None:
        limits[name] = limit
        return None

    world.forge({"snapshot": lengths, "timestamp": length})
    world.server.hook = note
    refused(world, "do not belong together")
    assert max(limits.values()) <= 1024 * 1024
    assert limits["metadata/timestamp.json"] <= 16 * 1024


@pytest.mark.parametrize("name", ["timestamp.json", "root.json", "snapshot.json", "release.json"])
def test_endless_data(world: World, name: str) -> None:
    """A server that ignores the limit that it was given."""
    world.release(letter="c")
    world.server.hook = lambda asked, limit, etag: (
        Answer(200, b" " * (limit + 1), "") if asked.endswith(name) else None
    )
    before = world.trust().load("stable").digest
    with pytest.raises(SourceError, match="larger than"):
        world.check()
    assert world.trust().load("stable").digest == before


def test_a_listed_release_that_is_too_long_is_not_fetched(world: World) -> None:
    world.forge({"stable": serve(world, b" " * (LIMIT + 1))})
    world.server.asked()
    refused(world, "more than 1048576")
    assert not [name for name in world.server.requests if name.endswith(STABLE)]


@pytest.mark.parametrize(
    "hashes",
    [
        {"md5": "0" * 32},
        {"sha1": "0" * 40},
        {"nonsense": "0" * 64},
        {"sha256": "../../../../etc/passwd"},
        {"sha256": "0" * 64, "sha512": "../" * 20},
        {"sha256": "\x1b[0m"},
        {"sha256": ""},
    ],
)
def test_weak_and_odd_hashes(world: World, hashes: dict[str, str]) -> None:
    def weak(targets: Any) -> None:
        targets.targets[STABLE].hashes = hashes

    world.forge({"stable": weak})
    world.server.asked()
    refused(world, "sha256 or sha512")
    assert not [name for name in world.server.requests if name.startswith("targets/")]


def test_requests_of_one_look_are_few(world: World) -> None:
    world.release(letter="c")
    world.server.asked()
    world.check()
    assert len(world.server.requests) == 5


def test_one_channels_release_served_for_another(world: World) -> None:
    beta = next(world.file("targets/beta").iterdir()).read_bytes()
    world.forge({"stable": serve(world, beta)})
    refused(world, "is one for channel beta")


def test_one_channels_keys_do_not_reach_another(world: World) -> None:
    """The role beta lists a release for stable: its delegation does not cover the path."""
    data = Release("stable", 9, apps("e")).to_bytes()
    world.forge({"beta": serve(world, data)})
    assert not world.check().changed


@pytest.mark.parametrize("first", [True, False])
def test_a_role_with_too_wide_a_delegation_is_refused(world: World, first: bool) -> None:
    """Also a delegation that a maker made by hand and too wide does not let a role in.

    The wide one comes first, or after the channel's own, which lists nothing then.
    """
    thief = signer()
    world.keys["aaa"] = [thief]

    def wide(targets: Any) -> None:
        role = DelegatedRole("aaa", [], 1, terminating=True, paths=["*/*"])
        own = targets.delegations.roles
        own["stable"].terminating = False
        targets.delegations.roles = {"aaa": role, **own} if first else {**own, "aaa": role}
        targets.add_key(thief.public_key, "aaa")

    channel = world.metadata("stable")
    data = Release("stable", 9, apps("e")).to_bytes()
    serve(world, data)(channel.signed)
    written = world._forged("aaa", channel, lambda _: None, {"aaa": [thief]})

    def snapshot(signed: Any) -> None:
        meta = MetaFile.from_data(channel.signed.version, written, ["sha256"])
        signed.meta["aaa.json"] = meta

    changes: dict[str, Callable[[Any], None]] = {"targets": wide, "snapshot": snapshot}
    if not first:
        changes["stable"] = lambda signed: signed.targets.clear()
    world.forge(changes)
    refused(world, "signed by a role other than stable and targets")


def test_no_delegations_at_all(world: World) -> None:
    def none(targets: Any) -> None:
        targets.delegations = None

    world.forge({"targets": none})
    refused(world, "no release of channel stable")

    def succinct(targets: Any) -> None:
        from tuf.api.metadata import SuccinctRoles

        key = world.signers("stable")[0].public_key
        targets.delegations = Delegations(
            {key.keyid: key}, succinct_roles=SuccinctRoles([key.keyid], 1, 1, "stable")
        )

    world.forge({"targets": succinct})
    refused(world)


def test_delegations_in_circles(world: World) -> None:
    def circle(signed: Any) -> None:
        key = world.signers("stable")[0].public_key
        role = DelegatedRole("stable", [key.keyid], 1, terminating=False, paths=["*/*"])
        signed.delegations = Delegations({key.keyid: key}, {"stable": role})
        signed.targets = {}

    world.forge({"stable": circle})
    refused(world, "no release of channel stable")


def test_fast_forward_of_the_release_and_recovery(world: World) -> None:
    """A stolen channel key pushes the version to the end; new keys bring the channel back."""
    far = Release("stable", 2**53 - 1, apps("e"))
    world.forge({"stable": serve(world, far.to_bytes())})
    assert world.check().release.version == 2**53 - 1
    world.forge({"stable": serve(world, Release("stable", 2, apps("c")).to_bytes())})
    refused(world, "offers release 2, this device has seen 9007199254740991")
    # The maker goes on from its own files, where the channel's release is still 1.
    world.forge({"stable": serve(world, Release("stable", 1, apps("a")).to_bytes())})
    world.rotate("stable")
    world.release(letter="c")
    assert world.check().release.version == 2
    # The floor is under the new keys now.
    world.forge({"stable": serve(world, Release("stable", 1, apps("a")).to_bytes())})
    refused(world, "offers release 1, this device has seen 2")


@pytest.mark.parametrize("far", [2**31, 2**53, 10**30])
def test_fast_forward_of_metadata_versions_and_recovery(world: World, far: int) -> None:
    """Stolen online keys push every version to the end; a new root brings all of them back."""
    keep = world.directory / "keep"
    shutil.copytree(world.directory / "repo", keep)

    def push(signed: Any) -> None:
        signed.version = far

    world.forge({"timestamp": push, "snapshot": push})
    world.check()
    shutil.rmtree(world.directory / "repo")
    shutil.copytree(keep, world.directory / "repo")
    world.refresh()
    refused(world, "older metadata than this device has seen")
    world.rotate("snapshot", "timestamp")
    world.release(letter="c")
    assert world.check().release.version == 2


def test_a_repository_restored_from_an_old_backup(world: World) -> None:
    keep = world.directory / "keep"
    shutil.copytree(world.directory / "repo", keep)
    for _ in range(5):
        world.release(letter="b")
    world.check()
    shutil.rmtree(world.directory / "repo")
    shutil.copytree(keep, world.directory / "repo")
    world.release(letter="c")
    refused(world, "older metadata than this device has seen")
    world.rotate("snapshot", "timestamp")
    refused(world, "offers release 2, this device has seen 6")
    world.release(letter="d", version=7)
    assert world.check().release.version == 7


def test_a_poisoned_time_is_let_go_with_the_timestamp_key(tmp_path: Path) -> None:
    """A stolen timestamp key signs as of 2120; careless expiry makes that believable."""
    world = World(tmp_path, expiry=Expiry(36_500, 36_500, 36_500, 36_500))
    world.add_channel()
    world.release()
    world.check()

    def far(timestamp: Any) -> None:
        timestamp.unrecognized_fields[CREATED] = "2120-01-01T00:00:00Z"

    shutil.copytree(world.directory / "repo", tmp_path / "keep")
    world.forge({"timestamp": far})
    world.check()
    assert Ratchet(world.memory).time().seconds > 4_700_000_000
    shutil.rmtree(world.directory / "repo")
    shutil.copytree(tmp_path / "keep", world.directory / "repo")
    save_settings(world.repository.files, Expiry())
    world.repository.renew(["root", "targets", "stable"], world.signers(*world.keys))
    world.forge({"timestamp": lambda signed: setattr(signed, "version", 1000)})
    refused(world, "2120.*the device's clock is wrong")
    world.rotate("timestamp", "snapshot")
    world.release(letter="c")
    world.device_time = 0.0
    assert world.check().release.version == 2
    assert Ratchet(world.memory).time().seconds == world.time.timestamp()
