"""The device's look at a channel over time: expiry, wrong clocks, the time that is signed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tufworld import Memory, World

from composeapps import tufclient
from composeapps.errors import TrustError
from composeapps.publish.drafting import Expiry
from composeapps.ratchet import LAST, Ratchet, SignedTime


def test_expiry_bites_and_is_mended_by_refresh(world: World) -> None:
    world.check()
    world.pass_days(8)
    with pytest.raises(TrustError, match=r"timestamp.json is expired.*refresh.*clock"):
        world.check()
    world.refresh()
    assert not world.check().changed


def test_a_device_asleep_for_two_years(world: World) -> None:
    world.check()
    for week in range(104):
        world.pass_days(7)
        if week % 10 == 9:
            world.rotate("timestamp", "root")
        if week % 25 == 24:
            world.repository.renew(["root", "targets", "stable"], world.signers(*world.keys))
        world.refresh()
    world.release(letter="e")
    found = world.check()
    assert found.release.version == 2
    assert found.changed


@pytest.mark.parametrize("seconds", [-1e18, 0.0, 1e9])
def test_a_clock_far_behind_is_lifted(world: World, seconds: float) -> None:
    world.check()
    world.device_time = seconds
    world.pass_days(8)
    # The signed time of the held timestamp is known: it is not yet expired then. The server
    # is asked, and has nothing newer: a freeze that a clock of 1970 cannot see through.
    world.check()
    # With the image's build time the same look is refused.
    with pytest.raises(TrustError, match="expired"):
        world.check(build_time=int(world.time.timestamp()))
    world.refresh()
    world.check(build_time=int(world.time.timestamp()))


def test_a_clock_of_1970_still_sees_old_targets_expire(tmp_path: Path) -> None:
    world = World(tmp_path, expiry=Expiry(root=4000, targets=10, snapshot=4000, timestamp=4000))
    world.add_channel()
    world.release()
    world.device_time = 0.0
    world.check()
    world.pass_days(20)
    # The maker's tool would refuse to sign this; a careless or hostile one does not.
    world.forge({"timestamp": lambda signed: stamp(signed, world.time)})
    with pytest.raises(TrustError, match="targets is expired"):
        world.check()


def stamp(signed: Any, when: datetime) -> None:
    """Sign a timestamp as of a time, valid for a week."""
    signed.unrecognized_fields[tufclient.CREATED] = when.strftime(tufclient.TIME_FORMAT)
    signed.expires = when + timedelta(days=7)


@pytest.mark.parametrize("clock", [1e12, 1e300, 253_402_214_400.0, 5e9])
def test_a_clock_once_far_ahead_leaves_no_trace(world: World, clock: float) -> None:
    world.check()
    world.device_time = clock
    with pytest.raises(TrustError, match="the device's clock is wrong"):
        world.check()
    world.device_time = None
    assert not world.check().changed


def test_a_makers_clock_once_far_ahead_is_mended_by_a_new_timestamp_key(world: World) -> None:
    world.check()
    now, world.time = world.time, datetime(2090, 5, 5, tzinfo=UTC)
    world.device_time = now.timestamp()
    # Everything was signed on the machine with the wrong clock.
    world.repository.renew(["root", "targets", "stable"], world.signers(*world.keys))
    world.refresh()
    assert not world.check().changed
    assert "trust.time" in world.memory.values
    world.time = now
    world.repository.renew(["root", "targets", "stable"], world.signers(*world.keys))
    world.refresh()
    with pytest.raises(TrustError, match="2090"):
        world.check()
    world.rotate("timestamp")
    world.check()
    world.release(letter="b")
    assert world.check().changed


@pytest.mark.parametrize(
    "value", [7, None, "yesterday", "9999-12-31T00:00:00Z", "2030-01-01", {"a": []}, "2" * 5000]
)
def test_odd_signed_times_are_ignored(world: World, value: object) -> None:
    def odd(signed: Any) -> None:
        signed.unrecognized_fields[tufclient.CREATED] = value

    world.forge({"timestamp": odd})
    world.check()
    assert json.loads(world.memory.values["trust.time"])["seconds"] == 0


def test_a_repository_without_signed_times_works(world: World) -> None:
    world.forge({"timestamp": lambda signed: signed.unrecognized_fields.clear()})
    world.check()
    world.forge({"timestamp": lambda signed: signed.unrecognized_fields.clear()})
    assert not world.check().changed


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"keys": 1}', '{"keys": [], "seconds": "x"}', "[" * 10_000]
)
def test_broken_memory_counts_as_none(world: World, text: str) -> None:
    world.check()
    world.memory.values = dict.fromkeys(world.memory.values, text)
    assert not world.check().changed


def test_signed_time_goes_forward_only_under_the_same_keys() -> None:
    ratchet = Ratchet(Memory())
    for seconds, keys, expected in [
        (100, ("a",), 100),
        (50, ("a",), 100),
        (200, ("a",), 200),
        (50, ("b",), 50),
        (-5, ("c",), 0),
        (10**30, ("d",), LAST),
    ]:
        ratchet.see_time(SignedTime(seconds, keys))
        assert ratchet.time() == SignedTime(expected, keys)
