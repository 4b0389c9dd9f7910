"""Progress on a terminal and elsewhere, tables, and which file of two trees differs."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path

import pytest

from composeapps import terminal, verify

DIGEST = "sha256:" + "ab" * 32


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr("composeapps.terminal.time.monotonic", one)
    return one


def test_a_bar_is_redrawn_in_place(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    report = terminal.progress()
    report("downloading", DIGEST, 0, 1000)
    for _ in range(4):
        clock.now += 0.2
        report("downloading", DIGEST, 250, 1000)
    report("sealing", DIGEST, 0, 1000)
    assert "\n" not in stream.getvalue().split("sealing")[0]
    drawn = stream.getvalue().split("\r")
    assert drawn[1].startswith("[                        ]   0% 0/1000 bytes")
    assert drawn[3].startswith("[############            ]  50% 500/1000 bytes")
    assert drawn[5].startswith("[########################] 100% 1000/1000 bytes")
    assert drawn[6] == "\x1b[Ksealing abababababab (1000 bytes)\n"


def test_a_bar_is_not_redrawn_for_every_piece(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    report = terminal.progress()
    for _ in range(1000):
        clock.now += 0.001
        report("downloading", DIGEST, 1, 1000)
    assert stream.getvalue().count("\r") <= 11


def test_elsewhere_there_are_a_few_plain_lines(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    report = terminal.progress()
    for _ in range(300):
        clock.now += 0.1
        report("downloading", DIGEST, 10, 3000)
    report("sealed", DIGEST, 0, 3000)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "downloaded 10 of 3000 bytes"
    assert lines[-1] == "sealed abababababab (3000 bytes)"
    assert 3 <= len(lines) <= 5
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_odd_sizes_are_no_error(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    report = terminal.progress()
    for count, size in [(0, 0), (5, 0), (-5, 10), (50, 10)]:
        clock.now += 1
        report("downloading", DIGEST, count, size)
    assert "500% 50/10 bytes" in stream.getvalue()


class Slow(dict[str, int]):
    """Lets another thread go first between a look and what follows from it."""

    def get(self, key: str, default: int = 0) -> int:  # type: ignore[override]
        value = super().get(key, default)
        time.sleep(0)
        return value


def test_many_downloads_report_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    report = terminal._Progress(terminal=True)
    report._done = Slow()

    def work() -> None:
        for _ in range(200):
            report("downloading", DIGEST, 1, 9)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert report._done[DIGEST] == 800


def test_tables() -> None:
    assert terminal.table(("A", "LONG"), []) == "A  LONG"
    rows = [("wide cell", "x"), ("", "longer cell")]
    text = terminal.table(("A", "LONG"), rows)
    assert text.splitlines() == ["A          LONG", "wide cell  x", "           longer cell"]


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """Return two equal trees."""
    roots = (tmp_path / "wanted", tmp_path / "found")
    for root in roots:
        (root / "sub" / "empty").mkdir(parents=True)
        (root / "a").write_text("a")
        (root / "sub" / "b").write_text("b")
        (root / "link").symlink_to("sub")
        (root / "dangling").symlink_to("/nowhere")
    return roots


def test_equal_trees(trees: tuple[Path, Path]) -> None:
    assert verify.difference(*trees) == ""
    os.utime(trees[1] / "a", (1, 1))
    assert verify.difference(*trees) == "", "times are not published"


def same_size_and_time(root: Path) -> None:
    wanted = root.parent / "wanted" / "a"
    (root / "a").write_text("A")
    os.utime(root / "a", ns=(wanted.stat().st_atime_ns, wanted.stat().st_mtime_ns))


def pipe_for_a(root: Path) -> None:
    (root / "a").unlink()
    os.mkfifo(root / "a")


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda root: (root / "a").write_text("A"), "a"),
        (lambda root: (root / "a").write_text("a longer"), "a"),
        (lambda root: (root / "a").unlink(), "a"),
        (lambda root: (root / "a").chmod(0o755), "a"),
        (lambda root: (root / "sub" / "b").write_text(""), "sub/b"),
        (lambda root: (root / "sub" / "new").write_text(""), "sub/new"),
        (lambda root: (root / "sub" / "empty").rmdir(), "sub/empty"),
        (lambda root: (root / "new").mkdir(), "new"),
        (lambda root: (root / "new").symlink_to("a"), "new"),
        (lambda root: [(root / "link").unlink(), (root / "link").symlink_to("a")], "link"),
        (lambda root: [(root / "link").unlink(), (root / "link").mkdir()], "link"),
        (lambda root: [(root / "a").unlink(), (root / "a").mkdir()], "a"),
        (lambda root: [(root / "a").unlink(), (root / "a").symlink_to("sub/b")], "a"),
        (pipe_for_a, "a"),
        (same_size_and_time, "a"),
        (lambda root: [(root / "sub" / "empty").rmdir(), (root / "sub/empty").touch()],
         "sub/empty"),
        (lambda root: (root / os.fsdecode(b"\xff")).write_text(""), "\udcff"),
    ],
    ids=range(17),
)  # fmt: skip
def test_the_first_difference_is_named(trees: tuple[Path, Path], spoil: object, name: str) -> None:
    assert callable(spoil)
    spoil(trees[1])
    assert verify.difference(*trees) == name
    assert verify.difference(trees[1], trees[0]) == name


def test_one_name_may_be_left_out(trees: tuple[Path, Path]) -> None:
    (trees[1] / "extra").write_text("")
    assert verify.difference(*trees, without="extra") == ""
    assert verify.difference(*trees) == "extra"
    (trees[1] / "more").write_text("")
    assert verify.difference(*trees, without="extra") == "more"
