"""Input that is no metadata, or odd metadata: one sentence, and the device keeps what it had."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from attacks import refused, serve, two_channels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Signer
from tuf.api.metadata import MetaFile
from tufworld import Answer, Memory, World, apps, signer

from composeapps.errors import ComposeAppsError, SourceError, TrustError
from composeapps.publish.signing import RoleKeys
from composeapps.release import Release


@pytest.fixture
def world(tmp_path: Path) -> World:
    return two_channels(tmp_path)


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
