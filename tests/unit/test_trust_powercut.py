"""Power cuts while a look keeps what it has verified: before every step of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from powercut import Disk, PowerCutError
from tufworld import Memory, World

from composeapps.errors import TrustError


class CutMemory(Memory):
    """The device's small values; each ``put`` is one step, atomic like SQLite's commit."""

    def __init__(self, disk: Disk, values: dict[str, str]) -> None:
        super().__init__()
        self.values = dict(values)
        self._disk = disk

    def put(self, key: str, value: str) -> None:
        self._disk.step()
        super().put(key, value)


def prepare(world: World, case: str) -> None:
    """Bring device and repository to where the look begins that is cut."""
    if case == "first":
        return
    world.check()
    if case == "new release":
        world.release(letter="b")
    elif case == "new keys":
        world.rotate("root", "targets", "snapshot", "timestamp", "stable")
        world.release(letter="b")
    elif case == "refresh":
        world.pass_days(20)
        world.refresh()
    elif case == "mending":
        (world.cache / "current" / "metadata" / "stable.json").write_bytes(b"torn")
        (world.cache / "sets" / "1" / "targets" / "stable" / "release.json").unlink()


def cuts(world: World, home: Path) -> Iterator[tuple[int, Disk, Memory]]:
    """Cut one look before each of its steps, each time from the same state of the device."""
    saved, values = home / "saved", dict(world.memory.values)
    shutil.copytree(world.cache, saved, symlinks=True) if world.cache.exists() else saved.mkdir()
    at = 0
    while True:
        shutil.rmtree(home / "device", ignore_errors=True)
        shutil.copytree(saved, world.cache, symlinks=True)
        disk = Disk(world.cache, at)
        memory = CutMemory(disk, values)
        with pytest.MonkeyPatch.context() as patch:
            disk.patch(patch)
            try:
                world.check(memory=memory)
            except PowerCutError:
                pass
            else:
                assert at == disk.steps
                return
        plain = Memory()
        plain.values = memory.values
        yield at, disk, plain
        at += 1


@pytest.mark.parametrize("renames", [False, True], ids=["bytes", "renames"])
@pytest.mark.parametrize("case", ["first", "new release", "new keys", "refresh", "mending"])
def test_a_cut_before_every_step(tmp_path: Path, case: str, renames: bool) -> None:
    world = World(tmp_path)
    world.add_channel()
    world.release()
    prepare(world, case)
    newest = 2 if case in ("new release", "new keys") else 1
    count = 0
    for at, disk, memory in cuts(world, tmp_path):
        disk.lose(renames)
        if case not in ("first", "mending"):
            # Old or new, but one of them, with no server.
            assert world.trust(memory=memory).load("stable").release.version in (1, newest), at
        found = world.check(memory=memory)
        assert found.release.version == newest, at
        again = world.trust(memory=memory)
        assert again.load("stable").release.version == newest
        assert not again.check("stable").changed
        count += 1
    assert count > 3
    with pytest.raises(TrustError):
        world.check("nothing")
