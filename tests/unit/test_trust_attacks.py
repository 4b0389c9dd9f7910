"""Attacks on the update path, through the real client: every one is refused and leaves no trace.

The names of the attacks are those of the TUF specification, section 1.5.2. An attacker holds the
keys that a test gives to ``forge``, and the server in any case.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Signer
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, TargetFile
from tufworld import Answer, Memory, World, apps, of, signer

from composeapps.errors import ComposeAppsError, NotFoundError, SourceError, TrustError
from composeapps.publish.drafting import Expiry, save_settings
from composeapps.publish.signing import RoleKeys
from composeapps.ratchet import Ratchet
from composeapps.release import LIMIT, Release
from composeapps.tufclient import CREATED

STABLE = "stable/release.json"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A repository with two channels that a device has looked at."""
    world = World(tmp_path)
    world.add_channel()
    world.add_channel("beta")
    world.release()
    world.release("beta", "b")
    world.check()
    return world


def refused(
    world: World,
    match: str | None = None,
    kind: tuple[type[ComposeAppsError], ...] = (TrustError,),
) -> str:
    """Look, expect a refusal in one sentence, and that the device still has what it had."""
    before = world.trust().load("stable").digest
    floor = dict(world.memory.values)
    with pytest.raises(kind, match=match) as caught:
        world.check()
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 800
    assert world.trust().load("stable").digest == before
    assert world.memory.values == floor
    return text


def serve(world: World, data: bytes) -> Callable[[Any], None]:
    """Lay a file out as a release document, and return the change that lists it."""
    info = TargetFile.from_data(STABLE, data, ["sha256"])
    world.file(f"targets/{info.get_prefixed_paths()[0]}").write_bytes(data)

    def change(targets: Any) -> None:
        targets.targets = {STABLE: info}

    return change


# Rollback, freeze, mix and match


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


# Keys and thresholds


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


# Root


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


# Expiry, role by role


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "stable"])
def test_expired_metadata(world: World, role: str) -> None:
    def expired(signed: Any) -> None:
        signed.expires = world.time - timedelta(seconds=1)

    world.forge({role: expired})
    refused(world, f"(?i){role}.*is expired")


# Endless data and bounds


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


# Channels and roles


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


# Fast forward


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


# Input that is no metadata, or odd metadata

ODD = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"7",
    b'"text"',
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b"[" * 10_000,
    b'{"signed":' * 2_000,
    b'{"signatures": [], "signed": {}}',
    b'{"signatures": {}, "signed": []}',
    b'{"signatures": null, "signed": {"_type": "timestamp"}}',
    b'{"signatures": [], "signed": {"_type": "\\u001b[31m"}}',
    b'{"signatures": [], "signed": {"_type": "timestamp", "version": ' + b"9" * 5_000 + b"}}",
    b'{"signatures": [{"keyid": [], "sig": 7}], "signed": {"_type": "root"}}',
    b"<html>captive portal</html>",
    b"\0" * 4096,
]


@pytest.mark.parametrize("data", ODD)
@pytest.mark.parametrize("role", ["timestamp", "root", "snapshot", "stable"])
def test_what_is_no_metadata(world: World, role: str, data: bytes) -> None:
    world.release(letter="c")
    name = "timestamp" if role == "timestamp" else f"{world.metadata(role).signed.version}.{role}"
    if role == "root":
        name = "2.root"
    world.server.replaced = {f"metadata/{name}.json": data}
    refused(world, kind=(TrustError, SourceError))
    world.server.replaced = {}
    assert world.check().changed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[" * 100_000,
        b"\xff",
        b'{"schema":1,"schema":1}',
        b'{"schema":1,"channel":"stable","version":1e5,"apps":{}}',
        b'{"schema":1,"channel":"stable","version":' + b"9" * 5_000 + b',"apps":{}}',
        b'{"schema":2,"channel":"stable","version":5,"apps":{}}',
        b'{"schema":1,"channel":"\\u001b]0;x","version":5,"apps":{}}',
        b'{"schema":1,"channel":"stable","version":5,"apps":{"../../etc":{}}}',
    ],
)
def test_a_signed_release_that_is_none(world: World, data: bytes) -> None:
    world.forge({"stable": serve(world, data)})
    refused(world, "the release of channel stable")


def test_what_signed_names_hold_never_reaches_a_terminal(world: World) -> None:
    def odd(snapshot: Any) -> None:
        snapshot.meta["\x1b]0;owned\x07\n.json"] = MetaFile(1)

    world.forge({"snapshot": odd})
    world.check()
    world.forge({"snapshot": lambda signed: signed.meta.pop("\x1b]0;owned\x07\n.json")})
    text = refused(world)
    assert "owned" in text


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a JSON document."""
    found = [path]
    if isinstance(value, (dict, list)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            found += paths(one, (*path, key))
    return found


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a document with one value replaced; ``...`` removes it."""
    if not path:
        return new
    value = copy.deepcopy(value)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    if new is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = new
    return value


ODD_VALUES = st.one_of(
    st.just(...),
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**63, 10**400]),
    st.text(max_size=20),
    st.sampled_from(["", "\x1b[0m", "../../x", "a/b", "9" * 500, "2030-13-01T00:00:00Z"]),
    st.lists(st.none() | st.integers() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=5), st.none() | st.integers(), max_size=3),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A repository that no test here changes on disk."""
    world = World(tmp_path_factory.mktemp("fuzz"))
    world.add_channel()
    world.release()
    return world


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_odd_values_signed_by_the_right_keys(prepared: World, data: st.DataObject) -> None:
    """Whatever one value of signed metadata is: an answer, or one sentence; never a traceback."""
    world = prepared
    world.memory = Memory()
    shutil.rmtree(world.cache, ignore_errors=True)
    role = data.draw(st.sampled_from(["timestamp", "snapshot", "targets", "stable", "root"]))
    value = world.metadata(role).signed.to_dict()
    if role == "root":
        value["version"] += 1
    path = data.draw(st.sampled_from(paths(value)[1:]))
    value = put(value, path, data.draw(ODD_VALUES))
    replaced: dict[str, bytes] = {}
    names = {"targets": "2.targets", "stable": "2.stable", "root": "2.root"}
    body = signed_document(value, world.signers(role))
    if role == "timestamp":
        replaced["timestamp"] = body
    else:
        snapshot = world.metadata("snapshot")
        if role in ("targets", "stable"):
            meta = MetaFile.from_data(2, body, ["sha256"])
            snapshot.signed.meta[f"{role}.json"] = meta
            body_of_snapshot = signed_document(snapshot.signed.to_dict(), world.signers("snapshot"))
            replaced[names[role]] = body
        else:
            body_of_snapshot = body if role == "snapshot" else snapshot.to_bytes()
        version = world.metadata("timestamp").signed.snapshot_meta.version
        replaced[f"{version}.snapshot"] = body_of_snapshot
        timestamp = world.metadata("timestamp").signed
        timestamp.snapshot_meta = MetaFile.from_data(version, body_of_snapshot, ["sha256"])
        replaced["timestamp"] = signed_document(timestamp.to_dict(), world.signers("timestamp"))
        if role == "root":
            replaced["2.root"] = body
    world.server.replaced = {f"metadata/{name}.json": one for name, one in replaced.items()}
    try:
        world.check()
    except ComposeAppsError as error:
        assert str(error).isprintable(), ascii(str(error))


def signed_document(value: Any, signers: list[Signer]) -> bytes:
    """Sign any JSON value as if it were the signed part of metadata."""
    text = encode_canonical(value)
    assert text is not None
    signatures = [one.sign(text.encode()).to_dict() for one in signers]
    return json.dumps({"signatures": signatures, "signed": value}).encode()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_odd_values_and_bytes_signed_by_nobody(prepared: World, data: st.DataObject) -> None:
    world = prepared
    world.memory = Memory()
    shutil.rmtree(world.cache, ignore_errors=True)
    names = ["timestamp", "2.root", "2.stable", "2.targets"]
    name = data.draw(st.sampled_from(names))
    role = name.partition(".")[2] or name
    value = world.metadata(role).to_dict()
    if data.draw(st.booleans()):
        path = data.draw(st.sampled_from(paths(value)))
        new = data.draw(ODD_VALUES)
        if path == () and new is ...:
            new = None
        body = json.dumps(put(value, path, new)).encode()
    else:
        body = json.dumps(value).encode()
        at = data.draw(st.integers(0, len(body)))
        body = body[:at] + data.draw(st.binary(max_size=8)) + body[at + 1 :]
    world.server.replaced = {f"metadata/{name}.json": body}
    try:
        found = world.check()
    except ComposeAppsError as error:
        assert str(error).isprintable(), ascii(str(error))
    else:
        assert found.release.version == 1


def test_keys_of_unknown_kinds_are_one_sentence(world: World) -> None:
    """A maker who uses a scheme that this device cannot verify."""
    world.rotate("timestamp")
    value = json.loads(world.file("metadata/2.root.json").read_bytes())
    for key in value["signed"]["keys"].values():
        key["scheme"] = "quantum-magic"
    world.server.replaced = {"metadata/2.root.json": json.dumps(value).encode()}
    refused(world)


def test_server_errors_stay_server_errors(world: World) -> None:
    world.release(letter="c")
    for name in [path.name for path in world.file("metadata").iterdir()] + ["9.root.json"]:

        def down(asked: str, limit: int, etag: str, name: str = name) -> Answer | None:
            if asked.endswith(f"/{name}") and not asked.endswith("1.root.json"):
                raise SourceError(f"{asked}: 500", retry_after=7)
            return None

        world.server.hook = down
        try:
            world.check(directory=world.directory / "other", memory=Memory())
        except SourceError as error:
            assert error.retry_after == 7
        shutil.rmtree(world.directory / "other", ignore_errors=True)


def test_a_root_that_has_expired_meanwhile_but_was_replaced(world: World) -> None:
    """Only the newest root is judged by its expiry."""
    world.pass_days(729)
    keys = ["root", "targets", "stable", "beta"]
    world.repository.renew(keys, world.signers(*world.keys))
    world.pass_days(5)
    assert not world.check().changed


def test_a_thief_of_the_targets_keys_is_locked_out_by_root(world: World) -> None:
    """He delegates the channel to himself and pushes the version; root replaces targets."""
    keep = world.directory / "keep"
    shutil.copytree(world.directory / "repo", keep)
    thief = signer()

    def steal(targets: Any) -> None:
        for keyid in list(targets.delegations.roles["stable"].keyids):
            targets.revoke_key(keyid, "stable")
        targets.add_key(thief.public_key, "stable")

    far = serve(world, Release("stable", 2**50, apps("e")).to_bytes())
    world.forge({"targets": steal, "stable": far}, signed_by={"stable": [thief]})
    assert world.check().release.version == 2**50
    shutil.rmtree(world.directory / "repo")
    shutil.copytree(keep, world.directory / "repo")
    world.rotate("targets", "snapshot", "timestamp", old_too=False)
    world.release(letter="c")
    assert world.check().release.version == 2


def test_role_keys_given_twice_are_refused_by_the_maker() -> None:
    one = signer()
    with pytest.raises(ComposeAppsError, match="given twice"):
        RoleKeys((one.public_key, one.public_key), 2).check("root")
