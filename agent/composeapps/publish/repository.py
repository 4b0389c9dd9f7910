"""The maker's TUF repository: who signs, channels, releases, and when signatures run out.

Every command changes metadata in memory, signs it with the keys at hand, and publishes the whole
change only when no signature is missing. Until then it waits in ``pending.json``, where other
people add theirs (``sign``), at other times and on other machines. Whatever fails, what was
published stays valid. Rules of the roles: TUF specification 1.0, sections 2 to 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, Targets

from composeapps.errors import ConfigError
from composeapps.publish.drafting import (
    Editor,
    Expiry,
    Outcome,
    load_settings,
    now,
    save_settings,
)
from composeapps.publish.repofiles import RepoFiles
from composeapps.publish.signing import (
    ONLINE,
    Draft,
    RoleKeys,
    check_apart,
    current_keys,
    role_keys,
    set_keys,
)
from composeapps.publish.summary import summary
from composeapps.release import App, Gates, Release, Rollout, check_channel
from composeapps.tufclient import TIME_FORMAT

TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")


class Repository:
    """One repository; every method takes its lock and is atomic."""

    def __init__(self, directory: Path, *, clock: Callable[[], datetime] = now) -> None:
        self.files = RepoFiles(directory)
        self._clock = clock

    @classmethod
    def init(
        cls,
        directory: Path,
        roles: Mapping[str, RoleKeys],
        signers: Sequence[Signer],
        *,
        expiry: Expiry | None = None,
        clock: Callable[[], datetime] = now,
    ) -> tuple[Repository, Outcome]:
        """Make a repository.

        Args:
            directory: is made; it may exist, but hold no repository.
            roles: keys of root, targets, snapshot and timestamp.
            signers: whoever signs now; others may follow with ``sign``.

        Raises:
            ConfigError: there is a repository already, or keys do not go together.
        """
        for role in TOP_LEVEL:
            if role not in roles:
                raise ConfigError(f"no key for {role} is given")
            roles[role].check(role)
        expiry = expiry or Expiry()
        expiry.check("settings")
        root = Root(roles={role: Role([], 1) for role in TOP_LEVEL}, consistent_snapshot=True)
        for role in TOP_LEVEL:
            set_keys(root, role, roles[role])
        check_apart(root, {})
        repository = cls(directory, clock=clock)
        files = repository.files
        if files.settings.exists() or files.metadata.exists():
            raise ConfigError(f"{directory} holds a repository already: choose another place")
        files.create()
        save_settings(files, expiry)
        with repository._change(waiting=True) as change:
            change.add("root", root)
            change.add("targets", Targets())
            return repository, change.finish(signers)

    @contextmanager
    def _change(self, *, waiting: bool = False) -> Iterator[Editor]:
        """Begin a change; ``waiting`` says that one may wait, or nothing be published yet."""
        with self.files.locked():
            draft = self.files.load()
            if not waiting and draft.pending:
                raise ConfigError(
                    f"a change of {', '.join(draft.pending)} waits for signatures: sign or "
                    "discard it first"
                )
            if not waiting and draft.published.timestamp is None:
                raise ConfigError("nothing is published yet: make the repository anew")
            yield Editor(self.files, draft, load_settings(self.files), self._clock)

    def sign(self, signers: Sequence[Signer]) -> Outcome:
        """Add signatures to the change that waits, and publish it when none is missing.

        Raises:
            ConfigError: nothing waits, no key fits, or the change waited beyond its expiry.
        """
        with self._change(waiting=True) as change:
            if not change.draft.pending:
                raise ConfigError("nothing waits for signatures")
            return change.finish(signers)

    def discard(self) -> None:
        """Drop the change that waits for signatures; raises ConfigError where none does."""
        with self._change(waiting=True) as change:
            if not change.draft.pending:
                raise ConfigError("nothing waits for signatures")
            self.files.drop_pending()

    def add_channel(
        self, channel: str, signers: Sequence[Signer], keys: RoleKeys | None = None
    ) -> Outcome:
        """Delegate ``<channel>/*`` to keys of its own, or to those of targets.

        Raises:
            ConfigError: the name cannot be one, or the channel exists.
        """
        check_channel(channel)
        with self._change() as change:
            draft = change.draft
            if channel in draft.channels:
                raise ConfigError(f"channel {channel} exists already")
            keys = keys or current_keys(draft.root, "targets")
            keys.check(channel)
            targets = change.role("targets")
            if targets.delegations is None:
                targets.delegations = Delegations({}, {})
            assert targets.delegations.roles is not None
            role = DelegatedRole(channel, [], 1, terminating=True, paths=[f"{channel}/*"])
            targets.delegations.roles[channel] = role
            set_keys(targets, channel, keys)
            check_apart(draft.root, {channel: role_keys(targets, channel)})
            change.add(channel, Targets())
            return change.finish(signers)

    def release(
        self,
        channel: str,
        apps: Mapping[str, App],
        signers: Sequence[Signer],
        *,
        rollout: Rollout | None = None,
        gates: Gates | None = None,
        version: int = 0,
    ) -> Outcome:
        """Make a channel's next release.

        Args:
            version: 0 for one more than the last.

        Raises:
            ConfigError: there is no such channel, or the release breaks a rule of its schema.
        """
        with self._change() as change:
            old = self.files.release(channel, change.draft.role(channel))
            last = old.version if old is not None else 0
            if version and version <= last:
                raise ConfigError(f"release {version} is not above {last}, the channel's last")
            release = Release(
                channel, version or last + 1, apps, rollout or Rollout(), gates or Gates()
            )
            Release.parse(release.to_bytes(), "the release", strict=True)
            info = self.files.add_release(release)
            change.role(channel).targets = {release.target: info}
            return change.finish(signers, release.version)

    def refresh(self, signers: Sequence[Signer]) -> Outcome:
        """Sign timestamp, and snapshot where half of its time is over, for another while.

        Raises:
            ConfigError: a key is missing, or other metadata has expired.
        """
        with self._change(waiting=True) as change:
            published = change.draft.published
            if published.root is None or published.snapshot is None:
                raise ConfigError("nothing is published yet: add the missing signatures first")
            roles: dict[str, Metadata[Any]] = {"root": published.root, **published.roles}
            for role, metadata in roles.items():
                if metadata.signed.is_expired(self._clock()):
                    expired = metadata.signed.expires.strftime(TIME_FORMAT)
                    raise ConfigError(
                        f"{role} expired at {expired}, no device takes it: renew it with its own "
                        "keys"
                    )
            change.draft.pending = {}  # what waits goes on waiting
            publication, missing = change.publication(signers)
            if missing:
                raise ConfigError("; ".join(map(str, missing)))
            self.files.publish(change.draft, publication)
            return Outcome(True)

    def renew(self, roles: Sequence[str], signers: Sequence[Signer]) -> Outcome:
        """Sign root, targets or channels again with a new expiry.

        Raises:
            ConfigError: one of them does not exist.
        """
        with self._change() as change:
            for role in roles:
                if role in ONLINE:
                    raise ConfigError(f"{role} is renewed by refresh")
                _ = change.root() if role == "root" else change.role(role)
            return change.finish(signers)

    def rotate(self, changes: Mapping[str, RoleKeys], signers: Sequence[Signer]) -> Outcome:
        """Give roles new keys: root, targets, snapshot, timestamp or channels, at once.

        A channel that had the keys of targets follows them. Give the old keys of the roles
        beside the new ones where they are still there: then no device meets a gap (root needs
        its old ones in any case).

        Raises:
            ConfigError: there is no such role, or keys do not go together.
        """
        for role, keys in changes.items():
            keys.check(role)
        with self._change() as change:
            todo = {**_followers(change.draft, changes), **changes}
            top = [role for role in todo if role in TOP_LEVEL]
            channels = [role for role in todo if role not in TOP_LEVEL]
            for role in top:
                set_keys(change.root(), role, todo[role])
            if "targets" in top:
                change.role("targets")
            for channel in channels:
                change.role(channel)
                set_keys(change.role("targets"), channel, todo[channel])
            draft = change.draft
            targets = draft.role("targets")
            check_apart(draft.root, {name: role_keys(targets, name) for name in draft.channels})
            return change.finish(signers)

    def revoke(self, keyid: str, signers: Sequence[Signer]) -> Outcome:
        """Take a key out of every role that has it, by its ID or the first digits of it.

        Raises:
            ConfigError: no or more than one key is meant, or a role would not reach its
                threshold without it.
        """
        with self._change() as change:
            draft = change.draft
        changes: dict[str, RoleKeys] = {}
        found: set[str] = set()
        for role in (*TOP_LEVEL, *draft.channels):
            keys = current_keys(draft.delegators(role)[0], role)
            doomed = {key.keyid for key in keys.keys if key.keyid.startswith(keyid)}
            if doomed:
                found |= doomed
                rest = tuple(key for key in keys.keys if key.keyid not in doomed)
                changes[role] = RoleKeys(rest, keys.threshold)
        if len(found) != 1 or not keyid:
            raise ConfigError(f"{len(found)} keys have an ID that begins with {keyid!r}")
        for role, keys in changes.items():
            if len(keys.keys) < keys.threshold:
                raise ConfigError(
                    f"{role} needs {keys.threshold} signatures and would have {len(keys.keys)} "
                    "keys: rotate it to new ones instead"
                )
        return self.rotate(changes, signers)

    def prune(self, keep: int = 10) -> list[Path]:
        """Remove superseded files except roots, and return them; the newest ``keep`` stay.

        Raises:
            ConfigError: nothing is published, or a change waits for signatures.
        """
        if keep < 1:
            raise ConfigError("at least the newest version has to stay")
        with self._change() as change:
            return self.files.prune(change.draft.published, keep)

    def show(self) -> dict[str, Any]:
        """Return a summary fit for JSON: roles, channels, and what waits for signatures."""
        with self._change(waiting=True) as change:
            return summary(self.files, change.draft)


def _followers(draft: Draft, changes: Mapping[str, RoleKeys]) -> dict[str, RoleKeys]:
    """Return new keys for the channels that have the keys of targets, where those change."""
    if "targets" not in changes:
        return {}
    old = role_keys(draft.root, "targets").keys()
    targets = draft.role("targets")
    names = [name for name in draft.channels if role_keys(targets, name).keys() == old]
    return dict.fromkeys(names, changes["targets"])
