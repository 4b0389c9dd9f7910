"""What only goes forward on a device, and how it is let go: release versions and signed time.

Both records stand beside the key IDs that vouched for them and end with them, so that nothing a
stolen key or a wrong clock pushed too far lasts longer than that key. See ``trust``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

from composeapps.errors import TrustError
from composeapps.oci import digest_of
from composeapps.release import Release

#: Seconds since 1970 of 9999-12-31, the last day that a date can name.
LAST = 253_402_214_400
_TIME = "trust.time"


class Memory(Protocol):
    """A few small values that live through power cuts; ``state.State`` is one."""

    def get(self, key: str, default: str = "") -> str:
        """Return a value, or the default where it was never set."""

    def put(self, key: str, value: str) -> None:
        """Set a value, durably."""


@dataclass(frozen=True)
class Floor:
    """The highest release seen on a channel, and who signed it."""

    version: int
    digest: str
    #: Key IDs of the role that signs the channel; sorted.
    keys: tuple[str, ...]

    @classmethod
    def of(cls, release: Release, raw: bytes, keys: tuple[str, ...]) -> Floor:
        """Return the floor that a verified release sets."""
        return cls(release.version, digest_of(raw), keys)


@dataclass(frozen=True)
class SignedTime:
    """The newest time at which a trusted timestamp says it was signed, and who signed it."""

    #: Seconds since 1970; 0 for none.
    seconds: int
    #: Key IDs of the timestamp role; sorted.
    keys: tuple[str, ...]


def judge(channel: str, new: Floor, old: Floor | None) -> None:
    """Refuse a release below the floor of the same keys; raises TrustError."""
    if old is None or old.keys != new.keys:
        return
    if new.version < old.version:
        raise TrustError(
            f"channel {channel} offers release {new.version}, this device has seen {old.version}: "
            "publish a higher version, or see RECOVERY in the manual"
        )
    if new.version == old.version and new.digest != old.digest:
        raise TrustError(
            f"release {new.version} of channel {channel} has changed since it was first seen: "
            "publish a new version"
        )


class Ratchet:
    """The two records, kept in a memory; one that cannot be read counts as none."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def floor(self, channel: str) -> Floor | None:
        """Return the floor under a channel's versions."""
        record = self._read(f"trust.floor.{channel}", version=int, digest=str)
        if not record:
            return None
        return Floor(record["version"], record["digest"], tuple(record["keys"]))

    def set_floor(self, channel: str, floor: Floor) -> None:
        """Remember a floor; the caller has judged it."""
        self._write(f"trust.floor.{channel}", vars(floor))

    def time(self) -> SignedTime:
        """Return the remembered signed time."""
        record = self._read(_TIME, seconds=int)
        if not record:
            return SignedTime(0, ())
        return SignedTime(min(max(record["seconds"], 0), LAST), tuple(record["keys"]))

    def see_time(self, seen: SignedTime) -> None:
        """Remember a signed time: a later one, or any of other keys."""
        known = self.time()
        if seen.keys != known.keys or seen.seconds > known.seconds:
            self._write(_TIME, vars(seen))

    def _read(self, key: str, **fields: type) -> dict[str, Any]:
        try:
            value = json.loads(self._memory.get(key) or "null")
        except (ValueError, RecursionError):
            return {}
        if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
            return {}
        if any(not isinstance(value.get(name), kind) for name, kind in fields.items()):
            return {}
        return value

    def _write(self, key: str, value: dict[str, Any]) -> None:
        text = json.dumps(value, sort_keys=True)
        if self._memory.get(key) != text:
            self._memory.put(key, text)
