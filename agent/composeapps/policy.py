"""``x-composeapps``: what an app's own Compose files say of how a device shall run it. Pure.

    x-composeapps:
      health_timeout: 90s
      settle: 15
      profiles: [production]

Durations are seconds, or Compose's own notation (``1m30s``). A maker's tool refuses unknown keys, a
device ignores them, so that an older agent lives with a newer maker.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from composeapps.errors import ConfigError

EXTENSION = "x-composeapps"
KEYS = ("health_timeout", "profiles", "settle")
#: Seconds; the longest a gate may take, as in a release.
DURATION_LIMIT = 86_400.0
PROFILES = 32

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:us|ms|s|m|h))+")
_PIECE = re.compile(r"([0-9.]+)(us|ms|s|m|h)")
#: Compose specification, ``profiles``.
_PROFILE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Policy:
    """An app's wishes; None leaves a limit to the release or to the device's settings."""

    #: Seconds.
    health_timeout: float | None = None
    settle: float | None = None
    #: Compose profiles that a device starts.
    profiles: tuple[str, ...] = ()


def parse(model: Mapping[str, Any], what: str, *, strict: bool = False) -> Policy:
    """Read the extension from Compose's canonical model (``config --format json``).

    Args:
        what: how an error names the app.
        strict: the maker's reading: unknown keys are an error.

    Raises:
        ConfigError: a value cannot be used.
    """
    value = model.get(EXTENSION)
    if value is None:
        return Policy()
    if not isinstance(value, Mapping):
        raise ConfigError(f"{what}: {EXTENSION} has to be a mapping")
    unknown = sorted(str(key) for key in value if key not in KEYS)
    if strict and unknown:
        raise ConfigError(
            f"{what}: {EXTENSION} has an unknown key {unknown[0][:60]!r}; known: {', '.join(KEYS)}"
        )
    return Policy(
        _duration(value.get("health_timeout"), f"{what}: {EXTENSION}: health_timeout"),
        _duration(value.get("settle"), f"{what}: {EXTENSION}: settle"),
        _profiles(value.get("profiles"), f"{what}: {EXTENSION}: profiles"),
    )


def seconds(text: str) -> float | None:
    """Return the seconds of a Compose duration such as ``1m30s``, or None where it is none."""
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PIECE.findall(text))


def _duration(value: object, where: str) -> float | None:
    if value is None:
        return None
    amount: float | None = None
    if isinstance(value, str):
        amount = seconds(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        amount = float(value)
    if amount is None or not 0 < amount <= DURATION_LIMIT:
        raise ConfigError(f"{where} has to be seconds or a duration like 90s, at most 24h")
    return amount


def _profiles(value: object, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > PROFILES:
        raise ConfigError(f"{where} has to be a list of at most {PROFILES} names")
    for profile in value:
        if not isinstance(profile, str) or not _PROFILE.fullmatch(profile):
            raise ConfigError(f"{where} has a name that cannot be one: {str(profile)[:60]!r}")
    return tuple(value)
