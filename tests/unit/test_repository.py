"""The maker's repository: what is published, signatures in steps, refresh."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from repositoryworld import snapshot_of
from securesystemslib.signer import Signer
from tufworld import ROLES, START, World, apps, of, signer

from composeapps.errors import ConfigError, TrustError
from composeapps.publish.drafting import Expiry
from composeapps.publish.repository import Repository
from composeapps.release import App, Gates, Release, Rollout, Size


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
