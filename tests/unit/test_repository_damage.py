"""The maker's repository: damage, company, and no half publication."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from powercut import Disk, PowerCutError
from repositoryworld import snapshot_of
from securesystemslib.signer import Signer
from tufworld import ROLES, START, Memory, World, apps, of, signer

from composeapps.errors import BusyError, ConfigError, TrustError
from composeapps.publish.drafting import Outcome
from composeapps.publish.repository import Repository


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
