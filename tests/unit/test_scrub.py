"""Hashing sealed layers over time: what is due, resuming, damage, boots that ended uncleanly.

Stores and state are real, layers are files with the digests that their names say.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from composeapps import config, scrub, verity
from composeapps.device import CLEAN, Device
from composeapps.oci import digest_of
from composeapps.store import SealedLayer

DAY = 86_400.0


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """Return a device with three layers of its own and one in its image."""
    paths = {name: str(tmp_path / name) for name in ("data", "run", "factory")}
    device = Device(config.parse({"paths": paths, "verify": {"rate": 0}}, "test"))
    for store in device.stores.all:
        store.create()
    for number in range(3):
        put(device, f"layer {number}".encode())
    image = put(device, b"of the image")
    image.path.rename(device.stores.factory.layers / image.path.name)
    return device


def put(device: Device, data: bytes) -> SealedLayer:
    file = device.stores.data.layers / "new"
    file.write_bytes(data)
    return device.stores.data.adopt_layer(file, digest_of(b"diff" + data), "", digest_of(data))


def rewrite(layer: SealedLayer, data: bytes) -> None:
    layer.path.unlink()  # with fs-verity it cannot be written
    layer.path.write_bytes(data)


def age(device: Device, days: float) -> None:
    device.state.put(scrub.DONE, str(time.time() - days * DAY))


def test_all_are_hashed_once_in_an_interval(device: Device) -> None:
    assert scrub.scrub(device).hashed == 0, "what was just installed was just verified"
    age(device, 29)
    assert scrub.scrub(device).hashed == 0
    age(device, 31)
    found = scrub.scrub(device)
    assert (found.hashed, found.damaged) == (4, [])
    assert found.bytes == 3 * len(b"layer 0") + len(b"of the image")
    assert scrub.scrub(device).hashed == 0


def test_a_clock_that_was_ahead_does_not_put_it_off_for_ever(device: Device) -> None:
    age(device, -1000)
    assert scrub.scrub(device).hashed == 0
    assert abs(float(device.state.get(scrub.DONE)) - time.time()) < 60


def test_it_goes_on_where_it_was_interrupted(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(device, 31)
    read: list[Path] = []
    real = scrub._Reader.hash

    def interrupted(reader: Any, path: Path) -> tuple[str, int]:
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(path)
        return real(reader, path)

    monkeypatch.setattr(scrub._Reader, "hash", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scrub.scrub(device)
    monkeypatch.setattr(scrub._Reader, "hash", real)
    assert scrub.scrub(device).hashed in (1, 2), "not all again"


@pytest.mark.parametrize("change", ["flip", "cut", "empty"])
def test_damage_is_found_and_remembered_until_it_is_dropped(device: Device, change: str) -> None:
    layer = next(device.stores.data.all_layers())
    good = layer.path.read_bytes()
    bad = {"flip": b"L" + good[1:], "cut": good[:-1], "empty": b""}[change]
    rewrite(layer, bad)
    age(device, 31)
    assert scrub.scrub(device).damaged == [layer]
    assert scrub.scrub(device).damaged == [layer], "nobody dropped it yet"
    scrub.forget_damaged(device)
    assert scrub.scrub(device).damaged == []


def boot(device: Device, name: str) -> None:
    device.__dict__["boot_id"] = name
    device.note_boot()


def test_after_an_unclean_shutdown_what_that_boot_wrote_is_hashed(device: Device) -> None:
    scrub.scrub(device)
    time.sleep(0.05)  # files carry the kernel's coarse clock
    boot(device, "one")
    time.sleep(0.05)
    fresh = put(device, b"written in boot one")
    boot(device, "two")
    rewrite(fresh, b"not what was written")
    found = scrub.scrub(device)
    assert (found.hashed, found.damaged) == (1, [fresh])
    scrub.forget_damaged(device)
    assert scrub.scrub(device).hashed == 0


def test_after_an_orderly_one_nothing_is(device: Device) -> None:
    scrub.scrub(device)
    boot(device, "one")
    put(device, b"written in boot one")
    (device.data / CLEAN).write_text("one")
    boot(device, "two")
    assert device.suspect_since == 0
    assert not (device.data / CLEAN).exists()
    boot(device, "three")
    assert device.suspect_since > 0


def test_a_service_that_is_only_restarted_has_not_ended_the_boot(device: Device) -> None:
    boot(device, "one")
    (device.data / CLEAN).write_text("one")
    boot(device, "one")
    boot(device, "two")
    assert device.suspect_since > 0


def test_two_unclean_ones_are_looked_after_from_the_first(device: Device) -> None:
    boot(device, "one")
    began = float(device.state.get("session").split()[1])
    boot(device, "two")
    boot(device, "three")
    assert device.suspect_since == began


def test_the_rate_is_kept(device: Device) -> None:
    layer = put(device, b"x" * 3_000_000)
    begun = time.monotonic()
    with scrub._Reader(10_000_000) as reader:
        assert reader.hash(layer.path) == (layer.digest, 3_000_000)
    assert time.monotonic() - begun >= 0.29


def test_an_interruption_does_not_wait_for_a_large_file(device: Device) -> None:
    layer = put(device, b"x" * 3_000_000)
    begun = time.monotonic()
    with scrub._Reader(10_000) as reader:
        reader._pool.submit(reader._hash, layer.path)
    assert time.monotonic() - begun < 60, "at that rate it would take five minutes"


def test_it_reads_in_the_idle_class_and_mends_in_its_own(device: Device) -> None:
    with scrub._Reader(0) as reader:
        reading = reader._pool.submit(os.sched_getscheduler, 0).result()
    assert (reading, os.sched_getscheduler(0)) == (os.SCHED_IDLE, os.SCHED_OTHER)


def test_what_the_kernel_checks_is_not_read(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verity, "is_enabled", lambda path: True)
    age(device, 31)
    found = scrub.scrub(device)
    assert (found.hashed, found.checked_by_kernel) == (0, 4)


def test_why_there_is_no_fs_verity_is_remembered(device: Device) -> None:
    """Or there is: both are right, it depends on this machine."""
    layer = next(device.stores.data.all_layers())
    age(device, 31)
    found = scrub.scrub(device)
    if verity.is_enabled(layer.path):
        assert found.no_verity == ""
    else:
        assert "fs-verity cannot be used here" in found.no_verity
        assert device.state.get(scrub.NO_VERITY) == found.no_verity


def test_a_file_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert not verity.is_enabled(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        verity.enable(tmp_path / "none")
