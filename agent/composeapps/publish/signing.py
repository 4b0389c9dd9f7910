"""A change under way: who may sign which metadata, and whose signatures are still missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    Metadata,
    Root,
    Snapshot,
    Targets,
    Timestamp,
    VerificationResult,
)

from composeapps.errors import ConfigError

ONLINE = ("snapshot", "timestamp")


@dataclass(frozen=True)
class RoleKeys:
    """Who signs a role: any ``threshold`` of the keys."""

    keys: tuple[Key, ...]
    threshold: int = 1

    def check(self, role: str) -> None:
        """Raise ConfigError where nobody could sign so, or fewer people than it seems."""
        values = {str(key.keyval) for key in self.keys}
        if len(values) != len(self.keys) or len({key.keyid for key in self.keys}) != len(values):
            raise ConfigError(f"one of the keys for {role} is given twice")
        if not 1 <= self.threshold <= len(self.keys):
            raise ConfigError(
                f"{role} cannot need {self.threshold} signatures with {len(self.keys)} keys"
            )


@dataclass(frozen=True)
class Missing:
    """Signatures that a role still needs."""

    role: str
    have: int
    need: int
    #: Key IDs that could give them.
    keys: tuple[str, ...]

    def __str__(self) -> str:
        short = ", ".join(keyid[:12] for keyid in self.keys)
        return f"{self.role} has {self.have} of {self.need} signatures (keys: {short})"


@dataclass
class Published:
    """What a repository has published; empty before the first time."""

    root: Metadata[Root] | None = None
    #: The root before: after an interrupted rotation some roles still chain to it.
    previous: Metadata[Root] | None = None
    #: ``targets`` and every channel.
    roles: dict[str, Metadata[Targets]] = field(default_factory=dict)
    snapshot: Metadata[Snapshot] | None = None
    timestamp: Metadata[Timestamp] | None = None


@dataclass
class Draft:
    """What is published, and what is changed and waits for signatures."""

    published: Published
    #: By role: ``root``, ``targets`` or a channel; never snapshot or timestamp.
    pending: dict[str, Metadata[Any]] = field(default_factory=dict)

    @property
    def root(self) -> Root:
        """The newest root, pending or published."""
        metadata = self.pending.get("root") or self.published.root
        if metadata is None:
            raise ConfigError("the repository has no root yet: run `composeapps-publish init`")
        root: Root = metadata.signed
        return root

    def role(self, name: str) -> Targets:
        """The newest ``targets`` or channel metadata; ConfigError where there is none."""
        metadata = self.pending.get(name) or self.published.roles.get(name)
        if metadata is None:
            raise ConfigError(f"the repository has no channel {name!r}: add it first")
        targets: Targets = metadata.signed
        return targets

    @property
    def channels(self) -> list[str]:
        """Names of all channels."""
        return sorted((self.published.roles.keys() | self.pending.keys()) - {"targets", "root"})

    def delegators(self, role: str) -> list[Root | Targets]:
        """Who may say who signs a role, the newest first."""
        found: Sequence[Metadata[Any] | None]
        if role in TOP_LEVEL_ROLE_NAMES:
            found = (self.pending.get("root"), self.published.root)
        else:
            found = (self.pending.get("targets"), self.published.roles.get("targets"))
        return [metadata.signed for metadata in found if metadata is not None]

    def keys(self, role: str) -> dict[str, Key]:
        """Return every key that may sign a role, by the newest word and by the published one."""
        keys: dict[str, Key] = {}
        for delegator in self.delegators(role):
            keys.update(role_keys(delegator, role))
        return keys

    def sign(self, role: str, metadata: Metadata[Any], signers: Iterable[Signer]) -> None:
        """Add the signatures of those signers that may sign the role; raises ConfigError."""
        allowed = self.keys(role)
        for signer in signers:
            keyid = signer.public_key.keyid
            if keyid not in allowed:
                continue
            try:
                metadata.sign(signer, append=True)
            except UnsignedMetadataError as error:
                cause = error.__cause__ or error
                reason = " ".join(str(cause).split()) or type(cause).__name__
                raise ConfigError(f"key {keyid[:12]} could not sign {role}: {reason}") from error
        metadata.signatures = dict(sorted(metadata.signatures.items()))

    def missing(self, role: str, metadata: Metadata[Any]) -> Missing | None:
        """Return what a role's metadata lacks of signatures, or None."""
        results = self._results(role, metadata)
        lacking = [result for result in results if not result]
        if not lacking:
            return None
        keys: dict[str, Key] = {}
        for result in lacking:
            keys.update(result.unsigned)
        worst = max(lacking, key=lambda result: result.missing)
        return Missing(role, len(worst.signed), worst.threshold, tuple(sorted(keys)))

    def _results(self, role: str, metadata: Metadata[Any]) -> list[VerificationResult]:
        payload, signatures = metadata.signed_bytes, metadata.signatures
        delegators = self.delegators(role) if role == "root" else self.delegators(role)[:1]
        return [one.get_verification_result(role, payload, signatures) for one in delegators]


def role_keys(delegator: Root | Targets, role: str) -> dict[str, Key]:
    """Return the keys of one role; {} where the delegator does not know it."""
    try:
        keyids = delegator.get_delegated_role(role).keyids
        return {keyid: delegator.get_key(keyid) for keyid in keyids}
    except ValueError:
        return {}


def current_keys(delegator: Root | Targets, role: str) -> RoleKeys:
    """Return keys and threshold that a delegator gives a role."""
    keys = role_keys(delegator, role)
    threshold = delegator.get_delegated_role(role).threshold
    return RoleKeys(tuple(keys[keyid] for keyid in sorted(keys)), threshold)


def chains(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> bool:
    """Say whether metadata is signed as a delegator wants it."""
    try:
        return bool(
            delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        )
    except ValueError:
        return False


def set_keys(delegator: Root | Targets, role: str, keys: RoleKeys) -> None:
    """Give a role of a delegator exactly these keys."""
    delegated = delegator.get_delegated_role(role)
    for keyid in list(delegated.keyids):
        delegator.revoke_key(keyid, role)
    for key in keys.keys:
        delegator.add_key(key, role)
    delegated.keyids.sort()
    delegated.threshold = keys.threshold


def check_apart(root: Root, channels: Mapping[str, dict[str, Key]]) -> None:
    """Raise ConfigError where a key that lies online could also change what devices trust."""
    offline = {**role_keys(root, "root"), **role_keys(root, "targets")}
    for keys in channels.values():
        offline.update(keys)
    for role in ONLINE:
        if role_keys(root, role).keys() & offline.keys():
            raise ConfigError(
                f"the key for {role} also signs root, targets or a channel: make one of its own, "
                f"the {role} key has to lie where others may get at it"
            )
