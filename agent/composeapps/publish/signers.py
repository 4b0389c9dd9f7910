"""Which key signs what: the flags ``--keys``, ``--key`` and ``--threshold``, and a key directory.

A key directory holds files named for roles: ``root.pem``, ``targets-2.pem``, ``stable.pub``. A
command opens only the keys of the roles that it signs, so that no offline key's password is asked
for without need. What the files are: ``keys``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from securesystemslib.signer import Signer

from composeapps.errors import ConfigError, UsageError
from composeapps.publish import keys
from composeapps.publish.keys import Secrets
from composeapps.publish.signing import RoleKeys

TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")
_KEY_FILE = re.compile(r"(?P<role>[a-z0-9_-]+?)(?:-[0-9]+)?\.(?:pem|pub)")


def find_signers(
    directory: Path | None, roles: Iterable[str], files: Sequence[Path], ask: Secrets
) -> list[Signer]:
    """Return the signers of some roles in a key directory, and of further files.

    Args:
        roles: names that key files begin with.

    Raises:
        ConfigError: a key cannot be opened.
        UsageError: no key is named at all.
    """
    paths = list(files)
    wanted = set(roles)
    if directory is not None:
        if not directory.is_dir():
            raise ConfigError(f"{directory} is not a directory of keys")
        for path in sorted(directory.iterdir()):
            match = _KEY_FILE.fullmatch(path.name)
            if match is not None and match["role"] in wanted and can_sign(path):
                paths.append(path)
    if not paths:
        raise UsageError("no key to sign with: name a directory with --keys, or files with --key")
    return [keys.load_signer(path, ask) for path in dict.fromkeys(paths)]


def can_sign(path: Path) -> bool:
    """Say whether a key file is more than the public half of somebody's key.

    A public half beside its private one counts as that one, once.
    """
    if path.suffix != ".pub":
        return True
    return not path.with_suffix(".pem").exists() and keys.has_signer(path)


def pairs(values: Sequence[str], flag: str) -> dict[str, list[str]]:
    """Read flags like ``ROLE=VALUE``; one role may have several; raises UsageError."""
    found: dict[str, list[str]] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not equals or not name or not rest:
            raise UsageError(f"{flag} {value!r} is not of the form ROLE=VALUE")
        found.setdefault(name, []).append(rest)
    return found


def numbers(values: Sequence[str], flag: str) -> dict[str, int]:
    """Read flags like ``ROLE=NUMBER``; raises UsageError."""
    found = {}
    for name, several in pairs(values, flag).items():
        if len(several) != 1 or not several[0].isdecimal() or len(several[0]) > 6:
            raise UsageError(f"{flag} {name}={several[-1]} is not one number")
        found[name] = int(several[0])
    return found


def role_keys(
    files: Mapping[str, Sequence[str]], thresholds: Mapping[str, int], ask: Secrets
) -> dict[str, RoleKeys]:
    """Return the public keys of key files or key URIs, by role; raises ConfigError, UsageError."""
    found = {}
    for role, names in files.items():
        public = tuple(keys.public_key(Path(name), ask) for name in names)
        found[role] = RoleKeys(public, thresholds.get(role, 1))
    for role in thresholds.keys() - files.keys():
        raise UsageError(f"--threshold for {role}, for which no key is named")
    return found


def generate(
    directory: Path, role: str, count: int, scheme: str, password: Callable[[str], str | None]
) -> list[str]:
    """Make the keys of one role and return their files; those that exist already are taken.

    Args:
        password: asked for the password of a new key; None keeps it in the clear.

    Raises:
        ConfigError: a key cannot be written.
    """
    paths = []
    for number in range(1, count + 1):
        path = directory / (role if count == 1 else f"{role}-{number}")
        if not path.with_suffix(".pem").exists():
            keys.generate(path, password(f"password for {path}.pem"), scheme)
        paths.append(str(path.with_suffix(".pem")))
    return paths
