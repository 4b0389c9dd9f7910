"""What a channel offers, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from composeapps import state
from composeapps.device import Device
from composeapps.release import Release, in_rollout
from composeapps.state import ReleaseRecord

#: State key: the release that failed because a local copy of it was damaged, and how often.
_DAMAGED = "failed-for-damage"

UP_TO_DATE = "up-to-date"
AVAILABLE = "available"
FAILED_BEFORE = "failed-before"
NOT_IN_ROLLOUT = "not-in-rollout"
OLDER = "older-than-current"


@dataclass(frozen=True)
class Check:
    """What a look at the channel found."""

    digest: str
    channel: str
    version: int
    #: One of the words above.
    verdict: str
    #: Why it failed, where it did.
    reason: str = ""


def decide(
    release: Release,
    record: ReleaseRecord | None,
    current: ReleaseRecord | None,
    device_id: str,
    factory_digest: str = "",
    *,
    damaged: bool = False,
) -> str:
    """Decide what to do about a channel's release; pure.

    Args:
        damaged: it failed because a local copy of it was damaged, which is not its own fault.

    Versions are judged by ``trust``, whose floor ends with the keys that set it: a maker who
    replaced a key has to be able to go back. Only the image's own release may have no floor.
    """
    if record is not None and current is not None and record.digest == current.digest:
        return UP_TO_DATE
    if record is not None and record.state == state.FAILED and not damaged:
        return FAILED_BEFORE
    if current is not None and current.digest == factory_digest and _is_older(release, current):
        return OLDER
    if record is not None and record.state in state.SWITCHING:
        return AVAILABLE
    return AVAILABLE if in_rollout(release, device_id) else NOT_IN_ROLLOUT


def _is_older(release: Release, current: ReleaseRecord) -> bool:
    return release.channel == current.channel and release.version < current.version


def check(device: Device) -> Check:
    """Look at the channel once.

    Raises:
        SourceError, TrustError: see ``trust.Trust.check``.
    """
    found = device.trust.check(device.settings.device.channel)
    record = device.state.release(found.digest)
    current = device.state.release(device.state.current)
    damaged = _was_damaged(device, found.digest)
    verdict = decide(
        found.release, record, current, device.id, device.factory_digest, damaged=damaged
    )
    if verdict == AVAILABLE:
        if record is not None and record.state == state.FAILED:
            device.state.retry(found.digest)
        device.stores.data.put_blob(found.raw)
        release = found.release
        device.state.add_release(found.digest, release.channel, release.version, found.raw)
    device.state.put("target", found.digest if verdict == AVAILABLE else "")
    reason = record.reason if record is not None and verdict == FAILED_BEFORE else ""
    return Check(found.digest, found.release.channel, found.release.version, verdict, reason)


def _was_damaged(device: Device, digest: str) -> bool:
    """Say whether a release failed for damage alone, and not more often than starts may."""
    found, _, count = device.state.get(_DAMAGED).partition(" ")
    return found == digest and int(count) <= device.settings.update.attempts


def note_failure(device: Device, digest: str, *, damaged: bool) -> None:
    """Take in why a release is about to fail: for damage, or for anything that is its own fault."""
    found, _, count = device.state.get(_DAMAGED).partition(" ")
    if damaged:
        times = int(count) + 1 if found == digest else 1
        device.state.put(_DAMAGED, f"{digest} {times}")
    elif found == digest:
        device.state.put(_DAMAGED, "")


def sentence(found: Check) -> str:
    """Say it to a person."""
    text = {
        UP_TO_DATE: "is what this device runs",
        AVAILABLE: "is available",
        FAILED_BEFORE: f"failed on this device before ({found.reason}): composeapps retry",
        NOT_IN_ROLLOUT: "is not rolled out to this device yet",
        OLDER: "is older than the one that this image carries",
    }[found.verdict]
    return f"release {found.version} of channel {found.channel} {text}"
