"""A maker's real repository, an untrusted server of its files, and a device that looks at it.

Everything is the real thing except the network: the server is a function over the directory that
publisher and attackers write to. Attackers get the keys they need from ``World.keys``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata, MetaFile, Signed

from composeapps.errors import NotFoundError, SourceError
from composeapps.oci import digest_of
from composeapps.publish.drafting import Expiry, Outcome
from composeapps.publish.repository import Repository
from composeapps.publish.signing import RoleKeys
from composeapps.release import App
from composeapps.trust import CheckResult, Trust

START = datetime(2030, 1, 1, tzinfo=UTC)
METADATA_URL = "https://maker.example/metadata"
TARGETS_URL = "https://maker.example/targets"
ROLES = ("root", "targets", "snapshot", "timestamp")


def apps(letter: str = "a") -> dict[str, App]:
    """Return the apps of a release; another letter, another artifact."""
    return {"web": App(f"registry.example/web@sha256:{letter * 64}")}


def signer() -> CryptoSigner:
    """Make a key."""
    return CryptoSigner.generate_ed25519()


def of(*signers: Signer, threshold: int = 1) -> RoleKeys:
    """Return the public keys of signers as keys of a role."""
    return RoleKeys(tuple(one.public_key for one in signers), threshold)


@dataclass(frozen=True)
class Answer:
    """What the server says."""

    status: int
    body: bytes
    etag: str


class Memory:
    """What ``state`` does on a device, in a dictionary."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, key: str, default: str = "") -> str:
        return self.values.get(key, default)

    def put(self, key: str, value: str) -> None:
        self.values[key] = value


@dataclass
class Server:
    """Serves a directory, and counts; ``replaced`` and ``hook`` are an attacker's hands."""

    directory: Path
    requests: list[str] = field(default_factory=list)
    #: Bytes of bodies, and a fair guess at header lines, per request.
    wire: int = 0
    etags: bool = True
    replaced: dict[str, bytes] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    hook: Callable[[str, int, str], Answer | None] | None = None

    def get(self, url: str, limit: int, etag: str) -> Answer:
        """Answer like ``Source.get``."""
        name = url.removeprefix("https://maker.example/")
        self.requests.append(name)
        self.wire += 300 + len(url) + len(etag)
        if self.hook is not None and (answer := self.hook(name, limit, etag)) is not None:
            return answer
        body = self.replaced.get(name)
        if body is None:
            path = self.directory / name
            if name in self.missing or not path.is_file():
                raise NotFoundError(f"{url}: 404")
            body = path.read_bytes()
        if len(body) > limit:
            raise SourceError(f"{url}: larger than {limit} bytes")
        tag = f'"{digest_of(body)[7:39]}"' if self.etags else ""
        if etag and etag == tag:
            return Answer(304, b"", tag)
        self.wire += len(body)
        return Answer(200, body, tag)

    def asked(self) -> list[str]:
        """Return what was asked for since the last call."""
        found, self.requests = self.requests, []
        self.wire = 0
        return found


class World:
    """A maker, a server and one device, with one clock that can be set apart for the device."""

    def __init__(self, directory: Path, *, expiry: Expiry | None = None) -> None:
        self.directory = directory
        self.time = START
        self.keys: dict[str, list[CryptoSigner]] = {role: [signer()] for role in ROLES}
        self.repository, outcome = Repository.init(
            directory / "repo",
            {role: of(*self.keys[role]) for role in ROLES},
            self.signers(*ROLES),
            expiry=expiry,
            clock=lambda: self.time,
        )
        assert outcome.published
        self.root = self.file("metadata/1.root.json").read_bytes()
        self.server = Server(directory / "repo")
        self.memory = Memory()
        self.cache = directory / "device" / "trust"
        self.device_time: float | None = None

    def file(self, name: str) -> Path:
        """Return a file of the repository."""
        return self.directory / "repo" / name

    def signers(self, *roles: str) -> list[Signer]:
        """Return the signers of roles; a channel without keys of its own has those of targets."""
        found = [one for role in roles for one in self.keys.get(role, self.keys["targets"])]
        return list({one.public_key.keyid: one for one in found}.values())

    def online(self, *roles: str) -> list[Signer]:
        """Return the signers of roles, and the online ones."""
        return self.signers(*roles, "snapshot", "timestamp")

    def pass_days(self, days: float) -> None:
        """Let time go by."""
        self.time += timedelta(days=days)

    def add_channel(self, channel: str = "stable", own: bool = True) -> None:
        """Add a channel, with a key of its own or those of targets."""
        if own:
            self.keys[channel] = [signer()]
        keys = of(*self.keys[channel]) if own else None
        done = self.repository.add_channel(channel, self.online("targets", channel), keys)
        assert done.published

    def release(self, channel: str = "stable", letter: str = "a", version: int = 0) -> Outcome:
        """Publish the next release."""
        done = self.repository.release(channel, apps(letter), self.online(channel), version=version)
        assert done.published
        return done

    def refresh(self) -> None:
        """Sign the online metadata again."""
        assert self.repository.refresh(self.online()).published

    def rotate(self, *roles: str, old_too: bool = True) -> None:
        """Give roles new keys."""
        old = self.signers("root", "targets", *roles)
        changes = {}
        for role in roles:
            self.keys[role] = [signer()]
            changes[role] = of(*self.keys[role])
        signers = [*self.online("root", "targets", *roles), *self.signers(*self.keys)]
        if old_too or "root" in roles:
            signers += old
        assert self.repository.rotate(changes, signers).published

    def trust(self, **changes: Any) -> Trust:
        """Return the device's client, begun anew as after every start."""
        given: dict[str, Any] = {
            "directory": self.cache,
            "root": self.root,
            "metadata_url": METADATA_URL,
            "targets_url": TARGETS_URL,
            "get": self.server.get,
            "memory": self.memory,
            "clock": self._clock,
        }
        return Trust(**{**given, **changes})

    def _clock(self) -> float:
        return self.time.timestamp() if self.device_time is None else self.device_time

    def check(self, channel: str = "stable", **changes: Any) -> CheckResult:
        """Look once."""
        return self.trust(**changes).check(channel)

    def metadata(self, role: str) -> Metadata[Any]:
        """Return the newest published metadata of a role."""
        if role == "timestamp":
            return Metadata.from_bytes(self.file("metadata/timestamp.json").read_bytes())
        paths = self.file("metadata").glob(f"*.{role}.json")
        newest = max(paths, key=lambda path: int(path.name.partition(".")[0]))
        return Metadata.from_bytes(newest.read_bytes())

    def forge(
        self,
        changes: Mapping[str, Callable[[Any], None]],
        *,
        signed_by: Mapping[str, Sequence[Signer]] | None = None,
    ) -> None:
        """Write changed metadata as whoever holds the keys can, past all checks of the publisher.

        Args:
            changes: what to do with each role's newest metadata; the roles that have to follow
                (snapshot and timestamp) do.
            signed_by: signers other than the right ones.
        """
        snapshot, timestamp = self.metadata("snapshot"), self.metadata("timestamp")
        for role in [name for name in changes if name not in ("snapshot", "timestamp")]:
            metadata = self.metadata(role)
            data = self._forged(role, metadata, changes[role], signed_by or {})
            if role != "root":
                meta = MetaFile.from_data(metadata.signed.version, data, ["sha256"])
                snapshot.signed.meta[f"{role}.json"] = meta
        nothing = _nothing
        data = self._forged("snapshot", snapshot, changes.get("snapshot", nothing), signed_by or {})
        meta = MetaFile.from_data(snapshot.signed.version, data, ["sha256"])
        timestamp.signed.snapshot_meta = meta
        self._forged("timestamp", timestamp, changes.get("timestamp", nothing), signed_by or {})

    def _forged(
        self,
        role: str,
        metadata: Metadata[Any],
        change: Callable[[Any], None],
        signed_by: Mapping[str, Sequence[Signer]],
    ) -> bytes:
        metadata.signed.version += 1
        change(metadata.signed)
        metadata.signatures.clear()
        for one in signed_by.get(role, self.signers(role)):
            metadata.sign(one, append=True)
        data = metadata.to_bytes()
        name = "timestamp" if role == "timestamp" else f"{metadata.signed.version}.{role}"
        self.file(f"metadata/{name}.json").write_bytes(data)
        return data


def _nothing(_: Signed) -> None:
    pass
