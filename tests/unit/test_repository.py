"""The maker's repository: signatures in steps, rotation, recovery, and no half publication."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from powercut import Disk, PowerCutError
from securesystemslib.signer import CryptoSigner, Signature, Signer
from tufworld import ROLES, START, Memory, World, apps, of, signer

from composeapps.errors import BusyError, ConfigError, TrustError
from composeapps.publish.drafting import Expiry, Outcome
from composeapps.publish.repository import Repository
from composeapps.publish.signing import RoleKeys
from composeapps.release import App, Gates, Release, Rollout, Size


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A repository with one release on channel stable."""
    world = World(tmp_path)
    world.add_channel()
    world.release()
    return world


def snapshot_of(path: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(path)): one.read_bytes()
        for one in sorted(path.rglob("*"))
        if one.is_file()
    }


def test_files_are_those_of_consistent_snapshots(world: World) -> None:
    names = sorted(path.name for path in world.file("metadata").iterdir())
    assert names == [
        "1.root.json",
        "1.snapshot.json",
        "1.stable.json",
        "1.targets.json",
        "2.snapshot.json",
        "2.stable.json",
        "2.targets.json",
        "3.snapshot.json",
        "timestamp.json",
    ]
    (release,) = world.file("targets/stable").iterdir()
    assert release.name.endswith(".release.json")
    assert not world.file("pending.json").exists()
    for path in world.file("").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_the_same_keys_and_clock_give_the_same_bytes(tmp_path: Path) -> None:
    keys = {role: [signer()] for role in ROLES}
    every = [one for signers in keys.values() for one in signers]

    def make(name: str) -> dict[str, bytes]:
        repository, _ = Repository.init(
            tmp_path / name,
            {role: of(*keys[role]) for role in ROLES},
            every,
            clock=lambda: START,
        )
        repository.add_channel("stable", every)
        repository.release("stable", apps(), every)
        return snapshot_of(tmp_path / name)

    assert make("one") == make("two")


def test_versions_grow_and_can_be_given(world: World) -> None:
    assert world.release().version == 2
    assert world.release(version=10).version == 10
    assert world.release().version == 11
    for version in (11, 1):
        with pytest.raises(ConfigError, match=f"release {version} is not above 11"):
            world.repository.release("stable", apps(), world.online("stable"), version=version)
    with pytest.raises(ConfigError, match="integer from 1"):
        world.repository.release("stable", apps(), world.online("stable"), version=2**53)


def test_a_release_carries_everything_it_was_given(world: World) -> None:
    given = {"web": App(apps()["web"].artifact, {"linux/arm64": Size(5, 6)})}
    world.repository.release(
        "stable", given, world.online("stable"), rollout=Rollout(30, "s"), gates=Gates(60)
    )
    assert world.check().release == Release("stable", 2, given, Rollout(30, "s"), Gates(60))


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"Web": App("registry.example/web@sha256:" + "a" * 64)}, "cannot be an app's name"),
        ({"web": App("registry.example/web:latest")}, "registry/repository@sha256"),
        ({"web": App("web@sha256:" + "a" * 64)}, "registry/repository@sha256"),
        ({f"a{i}": App("r.example/w@sha256:" + "a" * 64) for i in range(101)}, "more than 100"),
    ],
)
def test_bad_apps(world: World, bad: dict[str, App], match: str) -> None:
    before = snapshot_of(world.file("metadata"))
    with pytest.raises(ConfigError, match=match):
        world.repository.release("stable", bad, world.online("stable"))
    assert snapshot_of(world.file("metadata")) == before


def test_channels(world: World) -> None:
    with pytest.raises(ConfigError, match="exists already"):
        world.repository.add_channel("stable", world.online("targets"))
    for name in ("root", "A", "../x", ""):
        with pytest.raises(ConfigError, match="cannot be a channel"):
            world.repository.add_channel(name, world.online("targets"))
    with pytest.raises(ConfigError, match="no channel 'beta'"):
        world.repository.release("beta", apps(), world.online("targets"))


# Signing in steps


def test_thresholds_signed_by_different_people_at_different_times(tmp_path: Path) -> None:
    roots, targets = [signer() for _ in range(3)], [signer() for _ in range(3)]
    snapshot, timestamp = signer(), signer()
    repository, outcome = Repository.init(
        tmp_path / "repo",
        {
            "root": of(*roots, threshold=2),
            "targets": of(*targets, threshold=2),
            "snapshot": of(snapshot),
            "timestamp": of(timestamp),
        },
        [roots[0]],
        clock=lambda: START,
    )
    assert not outcome.published
    assert {one.role: (one.have, one.need) for one in outcome.missing} == {
        "root": (1, 2),
        "targets": (0, 2),
        "snapshot": (0, 1),
        "timestamp": (0, 1),
    }
    assert "root has 1 of 2 signatures" in str(outcome.missing[0])
    with pytest.raises(ConfigError, match="waits for signatures: sign or discard"):
        repository.add_channel("stable", targets)
    with pytest.raises(ConfigError, match="none of the keys"):
        repository.sign([signer()])
    assert not repository.sign([roots[0]]).published  # the same person again changes nothing
    assert not repository.sign([roots[2], targets[0]]).published
    assert not list((tmp_path / "repo" / "metadata").iterdir())
    online: list[Signer] = [snapshot, timestamp]
    assert not repository.sign(online).published
    done = repository.sign([targets[1], *online])
    assert done.published
    assert (tmp_path / "repo" / "metadata" / "timestamp.json").exists()
    # Complete, but the online keys are elsewhere: it waits for them.
    waiting = repository.add_channel("stable", targets[:2])
    assert [one.role for one in waiting.missing] == ["snapshot", "timestamp"]
    assert repository.sign(online).published


def test_pending_can_be_signed_in_a_copy(world: World, tmp_path: Path) -> None:
    """As on an air-gapped machine: a copy goes there, ``pending.json`` comes back."""
    outcome = world.repository.release("stable", apps("b"), [])
    assert not outcome.published
    shutil.copytree(world.file(""), tmp_path / "stick")
    offline = Repository(tmp_path / "stick", clock=lambda: world.time)
    assert [one.role for one in offline.sign(world.signers("stable")).missing] == [
        "snapshot",
        "timestamp",
    ]
    shutil.copy(tmp_path / "stick" / "pending.json", world.file("pending.json"))
    assert world.repository.sign(world.online()).published
    assert world.check().release.version == 2


def test_a_signature_in_pending_is_only_counted_when_it_is_right(world: World) -> None:
    world.repository.release("stable", apps("b"), world.signers("stable"))
    path = world.file("pending.json")
    value = json.loads(path.read_bytes())
    value["stable"]["signed"]["expires"] = "2039-01-01T00:00:00Z"
    path.write_text(json.dumps(value))
    outcome = world.repository.sign(world.online())
    assert [one.role for one in outcome.missing] == ["stable"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"stable": 7}', '{"../x": {}}', "[" * 10_000, '{"root": {"signed": {}}}']
)
def test_broken_pending_file(world: World, text: str) -> None:
    world.file("pending.json").write_text(text)
    with pytest.raises((TrustError, ConfigError)):
        world.repository.sign(world.online())


def test_discard(world: World) -> None:
    before = snapshot_of(world.file("metadata"))
    world.repository.release("stable", apps("b"), [])
    assert world.repository.show()["pending"] == ["stable"]
    world.repository.discard()
    assert world.repository.show()["pending"] == []
    assert snapshot_of(world.file("metadata")) == before
    for call in (world.repository.discard, lambda: world.repository.sign(world.online())):
        with pytest.raises(ConfigError, match="nothing waits"):
            call()
    assert world.release(letter="c").version == 2


def test_refresh_goes_on_while_a_change_waits(world: World) -> None:
    world.repository.release("stable", apps("b"), [])
    world.pass_days(5)
    world.refresh()
    assert world.repository.show()["pending"] == ["stable"]
    assert world.check().release.version == 1
    assert world.repository.sign(world.online("stable")).published
    assert world.check().release.version == 2


def test_a_change_that_waited_too_long(world: World) -> None:
    world.repository.release("stable", apps("b"), [])
    world.pass_days(366)
    with pytest.raises(ConfigError, match="beyond its expiry"):
        world.repository.sign(world.online("stable"))


# Refresh, renew, expiry


def test_refresh_signs_the_snapshot_only_when_it_is_due(world: World) -> None:
    only_timestamp = world.signers("timestamp")
    version = world.metadata("snapshot").signed.version
    assert world.repository.refresh(only_timestamp).published
    assert world.metadata("snapshot").signed.version == version
    world.pass_days(16)
    with pytest.raises(ConfigError, match="snapshot has 0 of 1 signatures"):
        world.repository.refresh(only_timestamp)
    world.refresh()
    assert world.metadata("snapshot").signed.version == version + 1
    assert world.check().release.version == 1


def test_refresh_with_other_metadata_expired_says_so(world: World) -> None:
    world.pass_days(366)
    before = snapshot_of(world.file(""))
    with pytest.raises(ConfigError, match=r"expired at 2031-01-01.*renew it"):
        world.refresh()
    assert snapshot_of(world.file("")) == before
    world.repository.renew(["targets", "stable"], world.online("targets", "stable"))
    world.refresh()
    assert world.check().release.version == 1


def test_renew(world: World) -> None:
    for role in ("timestamp", "snapshot"):
        with pytest.raises(ConfigError, match="renewed by refresh"):
            world.repository.renew([role], world.online())
    with pytest.raises(ConfigError, match="no channel 'beta'"):
        world.repository.renew(["beta"], world.online("targets"))
    world.pass_days(700)
    roles = ["root", "targets", "stable"]
    assert world.repository.renew(roles, world.online(*roles)).published
    assert world.metadata("root").signed.version == 2
    assert world.metadata("root").signed.expires == world.time + timedelta(days=730)
    assert world.check().release.version == 1


@pytest.mark.parametrize("days", [0, -1, 40_000, True])
def test_expiry_that_makes_no_sense(tmp_path: Path, days: int) -> None:
    with pytest.raises(ConfigError, match="expiry of timestamp"):
        World(tmp_path, expiry=Expiry(timestamp=days))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "expiry": {"x": 1}}', "[" * 10_000]
)
def test_broken_settings(world: World, text: str) -> None:
    world.file("repository.json").write_text(text)
    with pytest.raises(ConfigError, match=r"repository\.json"):
        world.refresh()


# Keys


def test_rotation_of_every_role_and_each_old_key_is_done_for(world: World) -> None:
    roles = ["root", "targets", "snapshot", "timestamp", "stable"]
    old = {role: world.signers(role) for role in roles}
    world.check()
    for role in roles:
        world.rotate(role)
        assert world.check().release.version == 1
        world.forge({role: lambda _: None}, signed_by={role: old[role]})
        with pytest.raises(TrustError):
            world.check()
        world.file("metadata/timestamp.json").unlink()
        shutil.rmtree(world.file(""))
        return_to_good(world)
        world.check()


def return_to_good(world: World) -> None:
    """Make the repository anew after a test has spoiled it: same keys, same versions or higher."""
    keys = {role: of(*world.keys[role]) for role in ROLES}
    world.repository, _ = Repository.init(
        world.file(""), keys, world.signers(*ROLES), clock=lambda: world.time
    )
    world.root = world.file("metadata/1.root.json").read_bytes()
    shutil.rmtree(world.cache)
    world.memory = Memory()
    world.repository.add_channel(
        "stable", world.online("targets", "stable"), of(*world.keys["stable"])
    )
    world.release()


def test_a_channel_with_the_keys_of_targets_follows_them(world: World) -> None:
    world.add_channel("beta", own=False)
    world.release("beta", "b")
    world.check("beta")
    old = world.signers("targets")[0].public_key.keyid
    world.rotate("targets")
    shown = world.repository.show()["roles"]
    assert shown["beta"]["keys"] == shown["targets"]["keys"]
    assert old not in json.dumps(shown)
    assert shown["stable"]["keys"] != shown["targets"]["keys"]
    assert world.check("beta").release.version == 1
    world.release("beta", "c")
    assert world.check("beta").release.version == 2


def test_rotation_needs_the_old_root_keys(world: World) -> None:
    new = signer()
    outcome = world.repository.rotate({"root": of(new)}, [new, *world.online()])
    assert [(one.role, one.have) for one in outcome.missing] == [("root", 0)]
    assert outcome.missing[0].keys == (world.signers("root")[0].public_key.keyid,)
    assert not world.file("metadata/2.root.json").exists()
    assert world.repository.sign(world.online("root")).published
    assert world.check().release.version == 1


def test_revoke(world: World) -> None:
    extra = signer()
    stable = world.keys["stable"][0]
    world.keys["stable"].append(extra)
    keys = of(stable, extra)
    assert world.repository.rotate({"stable": keys}, world.online("targets", "stable")).published
    world.keys["stable"] = [extra]
    gone = stable.public_key.keyid
    assert world.repository.revoke(gone[:16], world.online("targets", "stable")).published
    assert gone not in json.dumps(world.repository.show())
    assert world.check().release.version == 1
    with pytest.raises(ConfigError, match="would have 0 keys"):
        world.repository.revoke(extra.public_key.keyid, world.online("targets", "stable"))
    for wrong in ("", "zz", gone):
        with pytest.raises(ConfigError, match="keys have an ID that begins with"):
            world.repository.revoke(wrong, world.online("targets"))


def test_keys_that_do_not_go_together(tmp_path: Path) -> None:
    keys: dict[str, list[CryptoSigner]] = {role: [signer()] for role in ROLES}
    every = [one for signers in keys.values() for one in signers]

    def init(**changes: RoleKeys) -> Outcome:
        roles = {role: of(*keys[role]) for role in ROLES}
        return Repository.init(tmp_path / "repo", {**roles, **changes}, every)[1]

    one = keys["root"][0]
    with pytest.raises(ConfigError, match="given twice"):
        init(root=of(one, one, threshold=2))
    with pytest.raises(ConfigError, match="cannot need 2 signatures with 1 keys"):
        init(root=of(one, threshold=2))
    with pytest.raises(ConfigError, match="cannot need 0"):
        init(root=of(one, threshold=0))
    with pytest.raises(ConfigError, match="cannot need 1 signatures with 0 keys"):
        init(targets=RoleKeys((), 1))
    for role in ("snapshot", "timestamp"):
        with pytest.raises(ConfigError, match=f"the key for {role} also signs root"):
            init(**{role: of(one)})
    assert not (tmp_path / "repo").exists()
    assert init(snapshot=of(keys["timestamp"][0])).published
    with pytest.raises(ConfigError, match="holds a repository already"):
        init()


def test_a_channels_key_is_not_an_online_key(world: World) -> None:
    online = world.keys["timestamp"][0]
    with pytest.raises(ConfigError, match="also signs root, targets or a channel"):
        world.repository.add_channel("beta", world.online("targets"), of(online))
    with pytest.raises(ConfigError, match="also signs root, targets or a channel"):
        world.repository.rotate({"timestamp": of(world.keys["stable"][0])}, world.online("root"))


def test_missing_roles_at_init(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no key for snapshot"):
        Repository.init(tmp_path / "r", {"root": of(signer()), "targets": of(signer())}, [])


class JammedSigner(CryptoSigner):
    """A token that was pulled out: its error has no text, as a wrong PIN has none."""

    def sign(self, payload: bytes) -> Signature:
        raise RuntimeError


def test_a_signer_that_fails_is_named_and_nothing_is_published(world: World) -> None:
    before = snapshot_of(world.file(""))
    right = world.keys["stable"][0]
    jammed = JammedSigner(right._private_key, right.public_key)
    keyid = right.public_key.keyid[:12]
    with pytest.raises(ConfigError, match=f"key {keyid} could not sign stable: RuntimeError"):
        world.repository.renew(["stable"], [jammed, *world.online()])
    assert snapshot_of(world.file("")) == before


# Damage and company


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no repository"):
        Repository(tmp_path / "nothing").refresh([])


def test_two_publishers_at_once(world: World) -> None:
    descriptor = os.open(world.file(""), os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(BusyError, match="another composeapps-publish"):
            world.refresh()
    finally:
        os.close(descriptor)
    world.refresh()


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "flipped", "other", "deep"])
def test_damaged_files_are_named_and_nothing_is_signed(world: World, damage: str) -> None:
    world.rotate("root")
    good = snapshot_of(world.file(""))
    referred = [
        "metadata/1.root.json",
        "metadata/timestamp.json",
        f"metadata/{world.metadata('snapshot').signed.version}.snapshot.json",
        "metadata/2.targets.json",
        "metadata/2.stable.json",
    ]
    for name in referred:
        path = world.file(name)
        data = {
            "empty": b"",
            "garbage": b"\xff\0garbage",
            "flipped": good[name].replace(b'"sig":"', b'"sig":"00', 1),
            "other": good["metadata/1.targets.json"],
            "deep": b"[" * 100_000,
        }
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(data[damage])
        if damage == "missing" and name.endswith(("1.root.json", "timestamp.json")):
            with pytest.raises((ConfigError, TrustError)):
                world.repository.release("stable", apps("b"), world.online("stable"))
        else:
            with pytest.raises(TrustError, match=path.name):
                world.repository.release("stable", apps("b"), world.online("stable"))
        path.write_bytes(good[name])
    assert snapshot_of(world.file("")) == good


def test_what_a_thief_of_the_web_server_changes_is_not_signed_over(world: World) -> None:
    """He has no keys; the maker's next change must not carry his delegation."""
    thief = signer()

    def steal(targets: object) -> None:
        targets.add_key(thief.public_key, "stable")  # type: ignore[attr-defined]

    world.forge({"targets": steal}, signed_by={"targets": [thief]})
    with pytest.raises(TrustError, match="not signed by the keys of targets"):
        world.repository.add_channel("beta", world.online("targets"))


def test_a_changed_or_missing_release_file(world: World) -> None:
    (path,) = world.file("targets/stable").iterdir()
    data = path.read_bytes()
    for bad, match in ((data + b" ", "was changed"), (b"x" * 2_000_000, "larger than")):
        path.write_bytes(bad)
        with pytest.raises(TrustError, match=match):
            world.repository.release("stable", apps(), world.online("stable"))
        with pytest.raises(TrustError, match=match):
            world.repository.show()
    path.unlink()
    with pytest.raises(TrustError, match="cannot be read"):
        world.repository.show()


def test_show_fits_json(world: World) -> None:
    world.repository.release("stable", apps("b"), [])
    shown = world.repository.show()
    json.dumps(shown)
    assert shown["channels"]["stable"]["version"] == 1
    assert shown["roles"]["root"]["threshold"] == 1
    assert shown["roles"]["timestamp"]["expires"] == "2030-01-08T00:00:00Z"
    assert shown["missing"][0]["role"] == "stable"


def test_prune_keeps_roots_and_what_is_referred_to(world: World) -> None:
    world.rotate("root")
    for letter in "bcdef":
        world.release(letter=letter)
    removed = world.repository.prune(keep=2)
    assert removed
    names = {path.name for path in world.file("metadata").iterdir()}
    assert {"1.root.json", "2.root.json", "timestamp.json", "2.targets.json"} <= names
    assert sum(name.endswith(".stable.json") for name in names) == 2
    assert len(list(world.file("targets/stable").iterdir())) == 2
    assert world.check().release.version == 6
    assert world.repository.prune(keep=2) == []
    assert world.release().version == 7
    with pytest.raises(ConfigError, match="newest"):
        world.repository.prune(keep=0)


# Interrupted publications

#: Devices may meet a gap in it, between the root and the timestamp: nothing signs for both.
LOST = "all keys, old ones lost"
CHANGES: dict[str, Callable[[World, list[Signer]], Outcome]] = {
    "release": lambda world, new: world.repository.release(
        "stable", apps("b"), world.online("stable")
    ),
    "channel": lambda world, new: world.repository.add_channel("beta", world.online("targets")),
    "refresh": lambda world, new: world.repository.refresh(world.online()),
    "root": lambda world, new: world.repository.rotate(
        {"root": of(*new[:1])}, [*world.online("root"), *new]
    ),
    "all keys, old ones at hand": lambda world, new: world.repository.rotate(
        {role: of(new[at]) for at, role in enumerate((*ROLES, "stable"))},
        [*world.online("root", "targets", "stable"), *new],
    ),
    LOST: lambda world, new: world.repository.rotate(
        {role: of(new[at]) for at, role in enumerate((*ROLES, "stable"))},
        [*world.signers("root"), *new],
    ),
}


@pytest.mark.parametrize("renames", [False, True], ids=["bytes", "renames"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_cut_before_every_step_of_a_publication(
    tmp_path: Path, change: str, renames: bool
) -> None:
    """Devices, old and new, find a whole repository after every cut; the maker goes on."""
    world = World(tmp_path)
    world.add_channel()
    world.release()
    world.check()
    world.pass_days(16)
    shutil.copytree(world.file(""), tmp_path / "saved")
    shutil.copytree(world.cache, tmp_path / "cache", symlinks=True)
    new: list[Signer] = [signer() for _ in range(5)]
    at = 0
    while True:
        for saved, path in (("saved", world.file("")), ("cache", world.cache)):
            shutil.rmtree(path)
            shutil.copytree(tmp_path / saved, path, symlinks=True)
        world.device_time = START.timestamp() + 60
        disk = Disk(world.file(""), at)
        with pytest.MonkeyPatch.context() as patch:
            disk.patch(patch)
            try:
                assert CHANGES[change](world, new).published
            except PowerCutError:
                pass
            else:
                break
        disk.lose(renames)
        for cache in (world.cache, tmp_path / "fresh"):
            shutil.rmtree(tmp_path / "fresh", ignore_errors=True)
            if change == LOST:
                continue
            found = world.check(directory=cache, memory=Memory())
            assert found.release.version in (1, 2), at
        go_on(world, new, change)
        for cache in (world.cache, tmp_path / "fresh"):
            assert world.check(directory=cache, memory=Memory()).release.version in (1, 2), at
        at += 1
    assert at > 3
    assert world.check().release.version in (1, 2)


def go_on(world: World, new: list[Signer], change: str) -> None:
    """Do what the manual says after an interruption: sign what waits, else refresh."""
    every = [*world.signers("root", "targets", "snapshot", "timestamp", "stable"), *new]
    if change == LOST:
        every = [*world.signers("root"), *new]
        if (
            not world.file("metadata/2.root.json").exists()
            and not world.file("pending.json").exists()
        ):
            return  # nothing has happened yet
    if world.repository.show()["pending"]:
        assert world.repository.sign(every).published
    else:
        assert world.repository.refresh(every).published


def test_rotation_without_the_old_online_keys_publishes_the_root_first(world: World) -> None:
    """They are lost or stolen: then a gap cannot be avoided, but the end is whole."""
    world.check()
    world.rotate("snapshot", "timestamp", old_too=False)
    assert world.check().release.version == 1


def test_interrupted_rotation_without_old_keys_is_finished_by_refresh(world: World) -> None:
    before = snapshot_of(world.file("metadata"))
    world.rotate("snapshot", "timestamp", old_too=False)
    # As if the power had gone between the root and everything else.
    for name in snapshot_of(world.file("metadata")):
        if name not in before and name != "2.root.json":
            world.file(f"metadata/{name}").unlink()
    world.file("metadata/timestamp.json").write_bytes(before["timestamp.json"])
    with pytest.raises(TrustError):
        world.check()
    world.refresh()
    assert world.check().release.version == 1
