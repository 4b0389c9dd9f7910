"""The maker's repository: rotation and revocation of keys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from repositoryworld import snapshot_of
from securesystemslib.signer import CryptoSigner, Signature
from tufworld import ROLES, Memory, World, of, signer

from composeapps.errors import ConfigError, TrustError
from composeapps.publish.drafting import Outcome
from composeapps.publish.repository import Repository
from composeapps.publish.signing import RoleKeys


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
