"""The commands about keys, roles and signatures; ``repository`` has what they do."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from securesystemslib.signer import Signer

from composeapps.errors import UsageError
from composeapps.publish import keys, signers
from composeapps.publish.drafting import Expiry
from composeapps.publish.output import print_outcome, print_result
from composeapps.publish.repository import Repository
from composeapps.publish.signers import TOP_LEVEL, find_signers, numbers, pairs, role_keys

DEFAULT_CHANNEL = "stable"
ONLINE = ("snapshot", "timestamp")


def init(options: argparse.Namespace) -> None:
    """Make a repository and the keys that are missing."""
    ask = ask_secrets(options)
    given: dict[str, list[str]] = pairs(options.role_key, "--role-key")
    counts = numbers(options.count, "--count")
    _check_roles([*given, *counts], TOP_LEVEL)

    def password(name: str) -> str | None:
        return None if options.no_password else ask(name)

    for role in TOP_LEVEL:
        if role not in given:
            if options.keys is None:
                raise UsageError(f"no key for {role}: name a directory with --keys")
            given[role] = signers.generate(
                options.keys, role, counts.get(role, 1), options.scheme, password
            )
    files = [Path(name) for names in given.values() for name in names]
    who = find_signers(None, (), [f for f in files if signers.can_sign(f)] + options.key, ask)
    expiry = Expiry(**_known(numbers(options.expiry, "--expiry")))
    roles = role_keys(given, numbers(options.threshold, "--threshold"), ask)
    repository, outcome = Repository.init(options.repository, roles, who, expiry=expiry)
    for channel in options.channel or [DEFAULT_CHANNEL]:
        if outcome.published:
            outcome = repository.add_channel(channel, who)
    print_outcome(options, outcome, f"repository {options.repository}", {})


def channel(options: argparse.Namespace) -> None:
    """Add a channel."""
    ask = ask_secrets(options)
    given = pairs(options.role_key, "--role-key")
    _check_roles(given, (options.channel,))
    roles = role_keys(given, numbers(options.threshold, "--threshold"), ask)
    who = find_signers(options.keys, (options.channel, "targets", *ONLINE), options.key, ask)
    outcome = Repository(options.repository).add_channel(
        options.channel, who, roles.get(options.channel)
    )
    print_outcome(options, outcome, f"channel {options.channel}", {})


def rotate(options: argparse.Namespace) -> None:
    """Give roles new keys."""
    ask = ask_secrets(options)
    given = pairs(options.role_key, "--role-key")
    if not given:
        raise UsageError("nothing to rotate: say who shall sign with --role-key ROLE=FILE")
    roles = role_keys(given, numbers(options.threshold, "--threshold"), ask)
    new = [Path(name) for names in given.values() for name in names]
    who = _all_signers(options, [path for path in new if signers.can_sign(path)])
    outcome = Repository(options.repository).rotate(roles, who)
    print_outcome(options, outcome, f"new keys for {', '.join(given)}", {})


def key(options: argparse.Namespace) -> None:
    """Make or register a key."""
    ask = ask_secrets(options)
    if options.uri:
        made = keys.register(options.uri, options.file, ask)
    else:
        password = None if options.no_password else ask(f"password for {options.file}")
        made = keys.generate(options.file, password, options.scheme)
    print_result(options, {"keyid": made.keyid, "scheme": made.scheme}, [f"key {made.keyid}"])


def refresh(options: argparse.Namespace) -> None:
    """Sign timestamp and snapshot."""
    who = find_signers(options.keys, ONLINE, options.key, ask_secrets(options))
    outcome = Repository(options.repository).refresh(who)
    print_outcome(options, outcome, "timestamp and snapshot", {})


def renew(options: argparse.Namespace) -> None:
    """Sign roles again."""
    outcome = Repository(options.repository).renew(options.roles, _all_signers(options))
    print_outcome(options, outcome, ", ".join(options.roles), {})


def revoke(options: argparse.Namespace) -> None:
    """Take a key out of all roles."""
    outcome = Repository(options.repository).revoke(options.keyid, _all_signers(options))
    print_outcome(options, outcome, f"key {options.keyid} is out", {})


def sign(options: argparse.Namespace) -> None:
    """Add signatures."""
    outcome = Repository(options.repository).sign(_all_signers(options))
    print_outcome(options, outcome, "the change", {})


def discard(options: argparse.Namespace) -> None:
    """Drop what waits for signatures."""
    Repository(options.repository).discard()
    print_result(options, {"discarded": True}, ["the change is dropped"])


def prune(options: argparse.Namespace) -> None:
    """Remove superseded files."""
    removed = Repository(options.repository).prune(options.keep)
    print_result(
        options, {"removed": [str(path) for path in removed]}, [f"{len(removed)} files removed"]
    )


def show(options: argparse.Namespace) -> None:
    """Print what a repository holds."""
    value = Repository(options.repository).show()
    lines = []
    for role, one in value["roles"].items():
        need = f"{one['threshold']} of {len(one['keys'])} keys"
        lines.append(f"{role:<12} version {one['version']}, expires {one['expires']}, {need}")
        lines += [f"{'':<12} key {item['keyid']} ({item['scheme']})" for item in one["keys"]]
    for name, one in value["channels"].items():
        lines.append(f"channel {name}: release {one['version']}")
        lines += [f"  {app_name}: {artifact}" for app_name, artifact in one["apps"].items()]
    if value["pending"]:
        lines.append(f"waits for signatures: {', '.join(value['pending'])}")
    print_result(options, value, lines)


def ask_secrets(options: argparse.Namespace) -> keys.Secrets:
    """Return how passwords are had: as ``keys.secrets_from`` says, with a prompt on a terminal."""
    prompt = getpass.getpass if sys.stdin.isatty() else None
    return keys.secrets_from(os.environ, options.password_file, prompt)


def _all_signers(options: argparse.Namespace, more: Sequence[Path] = ()) -> list[Signer]:
    channels = Repository(options.repository).show()["channels"]
    roles = (*TOP_LEVEL, *channels)
    return find_signers(options.keys, roles, [*options.key, *more], ask_secrets(options))


def _check_roles(given: Sequence[str] | Mapping[str, object], known: Sequence[str]) -> None:
    for role in given:
        if role not in known:
            raise UsageError(f"{role} is no role here: use {', '.join(known)}")


def _known(days: Mapping[str, int]) -> dict[str, int]:
    _check_roles(days, TOP_LEVEL)
    return dict(days)
