"""One writer at a time, leftovers cleared away, and a damaged state file that stops nothing."""

from __future__ import annotations

import fcntl
import platform
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from composeapps import config
from composeapps.config import Settings
from composeapps.device import Device
from composeapps.errors import BusyError, ConfigError, StateError
from composeapps.oci import digest_of
from composeapps.release import App, Release


def settings(root: Path, **device: object) -> Settings:
    paths = {name: str(root / name) for name in ("data", "run", "factory", "root")}
    return config.parse({"paths": paths, "device": device}, "test")


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(settings(tmp_path))


def reopened(device: Device) -> Device:
    """Return the device as the next run of the program sees it."""
    if "state" in device.__dict__:
        device.state.close()
    return Device(device.settings)


HOLDER = """
import sys, time
from composeapps import config
from composeapps.device import Device
with Device(config.load([__import__('pathlib').Path(sys.argv[1])])).writer('update'):
    print('held', flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_who_is_at_work_and_a_killed_one_is_none(
    device: Device, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    paths = "\n".join(f'{name} = "{tmp_path / name}"' for name in ("data", "run", "factory"))
    file.write_text(f"[paths]\n{paths}\n")
    command = [sys.executable, "-c", HOLDER, str(file)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    message = rf"at work already \(`composeapps update`, process {holder.pid}\): try again"
    with pytest.raises(BusyError, match=message), device.writer("prune"):
        pytest.fail("two writers")
    holder.kill()
    holder.communicate()
    with device.writer("prune"):
        assert (device.data / "lock").read_text().startswith("`composeapps prune`")
    assert (device.data / "lock").read_text() == ""


def test_a_lock_file_full_of_garbage_locks_too(device: Device) -> None:
    device.data.mkdir()
    with (device.data / "lock").open("wb") as lock:
        lock.write(b"\xff\xfe" * 1000)
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="at work already"), device.writer("prune"):
            pytest.fail("two writers")
    with device.writer("prune"):
        assert (device.data / "lock").read_text().startswith("`composeapps prune`")


def test_a_writer_that_fails_lets_go(device: Device) -> None:
    with pytest.raises(ZeroDivisionError), device.writer("update"):
        raise ZeroDivisionError
    with device.writer("update"):
        pass


def test_leftovers_of_an_interrupted_run_are_cleared_away(device: Device) -> None:
    with device.writer("update"):
        (device.apps / "web").mkdir()
    store = device.stores.data
    leftovers = [
        device.apps / ".tmp-web-1",
        device.apps / "web" / ".tmp-file",
        store.blobs / ".tmp-blob",
        store.layers / ".tmp-layer",
    ]
    for path in leftovers:
        path.mkdir()
    (device.ingest / "half").write_bytes(b"x")
    with device.writer("update"):
        assert not any(path.exists() for path in leftovers)
        assert (device.ingest / "half").exists(), "a download goes on from there"
        assert (device.apps / "web").is_dir()


@pytest.mark.parametrize("damage", ["garbage", "half", "table", "value", "page"])
def test_a_damaged_state_file_is_moved_aside_and_reported(device: Device, damage: str) -> None:
    with device.writer("start"):
        device.state.add_release("sha256:" + "a" * 64, "stable", 1, b"x" * 9000)
        device.state.put("current", "x")
    device = reopened(device)
    path = device.data / "state.db"
    spoil(path, damage)
    path.with_name("state.db-journal").write_bytes(b"of the damaged file")
    spoiled = path.read_bytes()
    with device.writer("start"):
        assert device.state.current == ""
        (event,) = device.state.events(unsent=True)
        assert event.kind == "state-lost"
        assert str(path) in event.body["reason"]
        device.state.put("current", "y")
    assert path.with_name("state.db.damaged").read_bytes() == spoiled
    device = reopened(device)
    with device.writer("start"):
        assert device.state.current == "y"
        assert len(device.state.events()) == 1


def spoil(path: Path, damage: str) -> None:
    content = path.read_bytes()
    if damage in ("table", "value"):
        database = sqlite3.connect(path, isolation_level=None)
        database.execute("DROP TABLE image" if damage == "table" else "UPDATE release SET state=5")
        database.close()
    elif damage == "page":
        at = content.rindex(b"x" * 1000) // 4096 * 4096
        path.write_bytes(content[:at] + b"\xff" * 4096 + content[at + 4096 :])
    else:
        path.write_bytes(b"garbage" if damage == "garbage" else content[: len(content) // 2])


def test_a_newer_agents_state_is_left_as_it_is(device: Device) -> None:
    with device.writer("start"):
        device.state.put("current", "x")
    device = reopened(device)
    path = device.data / "state.db"
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=7")
    database.close()
    before = path.read_bytes()
    with device.writer("start"):
        device.state.put("current", "y")
    assert path.read_bytes() == before
    assert not list(device.data.glob("*.damaged"))


def test_a_locked_state_is_not_moved_aside(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("composeapps.database._BUSY", 0.1)
    with device.writer("start"):
        device.state.put("current", "x")
    device = reopened(device)
    other = sqlite3.connect(device.data / "state.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StateError, match="locked"), device.writer("start"):
        pytest.fail("went on without its state")
    other.close()
    with device.writer("start"):
        assert device.state.current == "x"


def sealed(device: Device, right: bytes, there: bytes) -> Path:
    """Put a sealed layer into the factory store, damaged where the two differ."""
    name = f"{digest_of(b'tar ' + right)[7:]}.{digest_of(right)[7:]}.erofs"
    path = device.stores.factory.layers / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(there)
    return path


def test_distrusted_factory_files_are_remembered_while_they_are_damaged(device: Device) -> None:
    first = sealed(device, b"one", b"on?")
    second = sealed(device, b"two", b"tw?")
    with device.writer("start"):
        device.distrust(first, damaged=True)
        device.distrust(second, damaged=True)
    device = reopened(device)
    with device.writer("start"):
        assert device.stores.distrusted == {str(first), str(second)}
        device.distrust(first, damaged=False)
    device = reopened(device)
    with device.writer("start"):
        assert device.stores.distrusted == {str(second)}
    second.write_bytes(b"two")  # another image has been written
    device = reopened(device)
    with device.writer("start"):
        assert device.stores.distrusted == set()
    assert device.state.get("distrusted") == ""


@pytest.mark.parametrize(
    ("machine", "wanted"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv7l", "linux/arm/v7"),
        ("armv6l", "linux/arm/v6"),
        ("armv8l", "linux/arm/v7"),
        ("i686", "linux/386"),
        ("riscv64", "linux/riscv64"),
        ("ppc64le", "linux/ppc64le"),
    ],
)
def test_this_machines_platform(
    device: Device, monkeypatch: pytest.MonkeyPatch, machine: str, wanted: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert str(device.platform) == wanted


def test_settings_go_before_what_the_machine_says(tmp_path: Path) -> None:
    device = Device(settings(tmp_path, platform="linux/arm/v6", id="name"))
    assert str(device.platform) == "linux/arm/v6"
    assert device.id == "name"
    with pytest.raises(ConfigError, match="not a platform"):
        _ = Device(settings(tmp_path, platform="arm")).platform


def test_a_device_always_has_a_name(device: Device) -> None:
    assert device.id


def test_the_factory_release_is_found_where_one_of_its_two_copies_is_damaged(
    device: Device,
) -> None:
    assert device.factory_digest == ""
    assert not device.factory_is_damaged
    store, path = device.stores.factory, device.settings.paths.factory / "release.json"
    release = Release("stable", 3, {"a": App(f"registry.test/a@sha256:{'0' * 64}")}).to_bytes()
    blob = store.blob_path(digest_of(release))
    blob.parent.mkdir(parents=True)
    blob.write_bytes(release)
    other = store.blob_path(digest_of(b"{}"))
    other.write_bytes(b"{}")
    for found in (release, b"", release.replace(b"3", b"4"), b"{"):
        path.write_bytes(found)
        device = Device(device.settings)
        assert device.factory_digest == digest_of(release)
        assert device.factory_is_damaged == (found != release)
    path.write_bytes(release)
    blob.write_bytes(b"damaged")
    assert Device(device.settings).factory_digest == digest_of(release)
    blob.unlink()
    device = Device(device.settings)
    assert (device.factory_digest, device.factory_is_damaged) == ("", True)


def test_a_root_that_is_missing_is_named(device: Device) -> None:
    with pytest.raises(ConfigError, match=r"/root cannot be read \(No such file .*set paths\.root"):
        device._read_root(device.settings.paths.root)
