"""Durable writes: old or new after a cut or an error before any call, and done after a retry.

The order of the calls is checked too: what a final name shows was fsynced before it got the name.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from powercut import Disk, PowerCutError

from composeapps import durable

OLD, NEW = b"old" * 1000, b"new" * 2000
#: What changes a directory or makes it durable.
CALLS = ("mkdir", "symlink", "unlink", "rmdir", "open", "fsync", "fchmod", "replace")


def tree(path: Path) -> Any:
    """Return all that can be seen at a path: bytes, a link's target, a directory's entries."""
    if path.is_symlink():
        return f"-> {os.readlink(path)}"
    if path.is_dir():
        return {entry.name: tree(entry) for entry in path.iterdir()}
    return path.read_bytes() if path.exists() else None


def fill(path: Path, content: Any) -> None:
    """Make what ``tree`` returns."""
    if isinstance(content, dict):
        path.mkdir()
        for name, inner in content.items():
            fill(path / name, inner)
    elif isinstance(content, str):
        path.symlink_to(content.removeprefix("-> "))
    elif content is not None:
        path.write_bytes(content)


def new_directory(path: Path) -> None:
    with durable.new_directory(path) as temporary:
        (temporary / "a").write_bytes(NEW)
        (temporary / "sub").mkdir()
        (temporary / "sub" / "b").write_bytes(NEW)
        (temporary / "link").symlink_to("a")


FULL = {"x": OLD, "sub": {"y": OLD}, "link": "-> x"}
MADE = {"a": NEW, "sub": {"b": NEW}, "link": "-> a"}


def write(path: Path) -> None:
    durable.write_file(path, NEW)


def link(path: Path) -> None:
    durable.replace_by_link(path, Path("/new"))


#: What is done, what was there, what may be seen in between, what is there in the end.
CASES: dict[str, tuple[Callable[[Path], None], Any, list[Any], Any]] = {
    "file": (write, OLD, [], NEW),
    "new file": (write, None, [], NEW),
    "link for nothing": (link, None, [], "-> /new"),
    "link for an empty directory": (link, {}, [None], "-> /new"),
    "link for a full directory": (link, {"x": OLD}, [{}, None], "-> /new"),
    "link for another link": (link, "-> /old", [], "-> /new"),
    "link for a link to a directory": (link, "-> .", [], "-> /new"),
    "link for a file": (link, OLD, [], "-> /new"),
    "link as it is": (link, "-> /new", [], "-> /new"),
    "remove a file": (durable.remove, OLD, [], None),
    "remove a link": (durable.remove, "-> /old", [], None),
    "remove a directory": (durable.remove, FULL, [], None),
    "remove nothing": (durable.remove, None, [], None),
    "new directory": (new_directory, None, [], MADE),
    "directory for a directory": (new_directory, FULL, [None], MADE),
    "make a directory": (durable.make_dir, None, [], {}),
}


def cuts(
    home: Path, act: Callable[[Path], None], old: Any, *, renames: bool
) -> Iterator[tuple[int, Path]]:
    """Cut an action before each of its steps, lose what was not synced, and yield the path."""
    at = 0
    while True:
        shutil.rmtree(home, ignore_errors=True)
        disk_home = home / "disk"
        disk_home.mkdir(parents=True)
        path = disk_home / "thing"
        fill(path, old)
        disk = Disk(disk_home, at)
        with pytest.MonkeyPatch.context() as patch:
            disk.patch(patch)
            try:
                act(path)
            except PowerCutError:
                pass
            else:
                assert at == disk.steps
                return
        disk.lose(renames)
        yield at, path
        at += 1


@pytest.mark.parametrize("renames", [False, True], ids=["bytes", "renames"])
@pytest.mark.parametrize("case", CASES)
def test_a_cut_before_every_step_leaves_old_or_new_and_a_retry_ends_it(
    tmp_path: Path, case: str, renames: bool
) -> None:
    act, old, between, new = CASES[case]
    count = 0
    for at, path in cuts(tmp_path / "home", act, old, renames=renames):
        assert tree(path) in [old, new, *between], f"cut before step {at}"
        act(path)
        assert tree(path) == new, f"retry after a cut before step {at}"
        durable.remove_temporaries(path.parent)
        assert [entry.name for entry in path.parent.iterdir()] in ([], [path.name])
        count += 1
    assert count >= (0 if case == "remove nothing" else 1)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("case", CASES)
def test_an_error_of_any_call_is_told_and_leaves_old_or_new(
    tmp_path: Path, case: str, error: int
) -> None:
    act, old, between, new = CASES[case]
    for at in range(200):
        path = tmp_path / str(at) / "thing"
        path.parent.mkdir()
        fill(path, old)
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, at, error)
            if not failing.tell(lambda path=path: act(path)):  # type: ignore[misc]
                break
        assert tree(path) in [old, new, *between], f"call {at}, {failing.name}"
        if act is write:
            assert [entry.name for entry in path.parent.iterdir()] in ([], [path.name])
        act(path)
        assert tree(path) == new, f"retry after call {at}, {failing.name}"
    else:
        pytest.fail("the action never ended")


class Failing:
    """Lets one call fail, as a full or dying medium does."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, code: int) -> None:
        self.at = at
        self.code = code
        self.count = 0
        self.name = ""
        for name in CALLS:
            patch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.count += 1
            if self.count == self.at + 1:
                self.name = name
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **more)

        return call

    def tell(self, action: Callable[[], None]) -> bool:
        """Run the action; say whether the error came, which must never be swallowed."""
        try:
            action()
        except OSError as error:
            assert error.errno == self.code
            return True
        assert self.count <= self.at, f"the error of {self.name} was ignored"
        return False


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the calls as they happen: name and the names of what they are about."""
    seen: list[str] = []

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if name == "fsync":
                seen.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{args[0]}')).name}")
            elif name != "open":
                seen.append(f"{name} {' '.join(Path(str(arg)).name for arg in args[:2])}")
            return real(*args, **more)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, wrap(name, getattr(os, name)))
    return seen


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_a_file_is_synced_before_it_gets_its_name_and_the_name_after(
    home: Path, calls: list[str]
) -> None:
    durable.write_file(home / "a", NEW)
    assert calls[1:] == ["fsync .tmp-a", "replace .tmp-a a", "fsync home"]


def test_moving_between_directories_syncs_both(home: Path, calls: list[str]) -> None:
    (home / "from").mkdir()
    (home / "from" / "a").write_bytes(NEW)
    calls.clear()
    durable.publish_path(home / "from" / "a", home / "b")
    assert calls == ["replace a b", "fsync home", "fsync from"]


def test_a_link_is_durable_even_where_it_was_made_before(home: Path, calls: list[str]) -> None:
    """The run that made it may have ended before its fsync; containerd commits after this."""
    durable.replace_by_link(home / "fs", Path("/layer"))
    assert calls == ["unlink .tmp-fs", "symlink layer .tmp-fs", "replace .tmp-fs fs", "fsync home"]
    calls.clear()
    durable.replace_by_link(home / "fs", Path("/layer"))
    assert calls == ["fsync home"]


def test_a_directory_is_synced_whole_before_it_gets_its_name(home: Path, calls: list[str]) -> None:
    new_directory(home / "d")
    final = calls.index("replace .tmp-d d")
    synced = {call for call in calls[:final] if call.startswith("fsync")}
    assert synced == {"fsync a", "fsync b", "fsync sub", "fsync .tmp-d"}
    assert calls[final + 1 :] == ["fsync home"]


def test_a_removed_directory_loses_its_name_durably_before_its_files(
    home: Path, calls: list[str]
) -> None:
    fill(home / "d", FULL)
    calls.clear()
    durable.remove(home / "d")
    assert calls[:2] == ["replace d .tmp-rm-d", "fsync home"]
    assert calls[-1] == "fsync home"
    assert any(call.startswith(("unlink", "rmdir")) for call in calls[2:-1])


def test_made_directories_are_durable_from_the_top(home: Path, calls: list[str]) -> None:
    durable.make_dir(home / "a" / "b")
    assert calls == ["mkdir a 448", "fsync home", "mkdir b 448", "fsync a"]
    calls.clear()
    durable.make_dir(home / "a" / "b")
    assert calls == []


def test_modes_do_not_depend_on_the_umask(home: Path) -> None:
    before = os.umask(0o077)
    try:
        durable.write_file(home / "a", NEW, mode=0o644)
    finally:
        os.umask(before)
    assert (home / "a").stat().st_mode & 0o777 == 0o644
    durable.write_file(home / "a", NEW)
    assert (home / "a").stat().st_mode & 0o777 == 0o600


def test_links_are_neither_followed_nor_their_targets_removed(home: Path) -> None:
    fill(home / "outside", FULL)
    (home / "link").symlink_to(home / "outside")
    (home / "dangling").symlink_to("/nowhere")
    fill(home / "d", {"in": f"-> {home / 'outside'}", "dangling": "-> /nowhere"})
    durable.fsync_tree(home)
    for name in ("link", "dangling", "d"):
        durable.remove(home / name)
    assert tree(home) == {"outside": FULL}


def test_only_temporaries_are_cleared_away(home: Path) -> None:
    kept = {"a": OLD, "tmp-b": OLD, "d": {".tmp-inside": OLD}}
    fill(home / "x", kept | {".tmp-a": OLD, ".tmp-d": FULL, ".tmp-l": "-> a", ".tmp-rm-d": {}})
    durable.remove_temporaries(home / "x")
    assert tree(home / "x") == kept
    durable.remove_temporaries(home / "nothing")


def test_a_body_that_fails_leaves_the_old_directory(home: Path) -> None:
    fill(home / "d", FULL)
    with suppress(ZeroDivisionError), durable.new_directory(home / "d") as temporary:
        (temporary / "a").write_bytes(NEW)
        raise ZeroDivisionError
    assert tree(home / "d") == FULL
    durable.remove_temporaries(home)
    assert tree(home) == {"d": FULL}
