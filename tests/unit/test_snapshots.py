"""What containerd says, read; and the order of what it is asked. ``ctr`` is a stand-in here.

The lines are those of ``ctr`` 1.7 and 2.1; the real programs are asked in ``tests/docker``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composeapps import durable, snapshots
from composeapps.errors import EngineError
from composeapps.oci import digest_of, hex_of
from composeapps.snapshots import ChainLink, Snapshot, Snapshots

A, B = digest_of(b"a"), digest_of(b"b")
CTR = """#!/bin/sh
# A stand-in for containerd: notes what it is asked, and answers as a file of the verb's name says.
shift 4
echo "$*" >> ROOT/asked
[ "$1" = snapshots ] && shift 3
if [ "$1" = commit ] && [ -L "$(cat ROOT/link)" ]; then echo "linked already" >> ROOT/asked; fi
[ -f "ROOT/$1.fails" ] && { echo "ctr: no" >&2; exit 1; }
[ -f "ROOT/$1" ] && exec cat "ROOT/$1"
exit 0
"""


class Containerd:
    """The stand-in and the snapshotter's directory that it tells of."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        (root / "bin").mkdir()
        (root / "bin" / "ctr").write_text(CTR.replace("ROOT", str(root)))
        (root / "bin" / "ctr").chmod(0o755)
        monkeypatch.setenv("PATH", f"{root}/bin", prepend=":")
        self.directory = root / "data" / "io.containerd.snapshotter.v1.overlayfs" / "snapshots"
        self.directory.mkdir(parents=True)
        self.says("ls", "KEY PARENT KIND\n")
        self.snapshots = Snapshots("/run/containerd.sock", root / "data")

    def says(self, verb: str, text: str) -> None:
        (self.root / verb).write_text(text)

    def prepares(self, number: int, *, bind: bool) -> Path:
        """Make an active snapshot's directory and let the next ``prepare`` name it."""
        path = self.directory / str(number) / "fs"
        path.mkdir(parents=True)
        self.says("prepare", mount(path, bind=bind))
        self.says("link", str(path))
        return path

    @property
    def asked(self) -> list[str]:
        file = self.root / "asked"
        return file.read_text().splitlines() if file.exists() else []


def mount(path: Path, *, bind: bool) -> str:
    """Return what ``ctr snapshots prepare --mounts`` prints."""
    if bind:
        value = {"Type": "bind", "Source": str(path), "Target": "", "Options": ["rw", "rbind"]}
    else:
        options = ["index=off", f"workdir={path.parent}/work", f"upperdir={path}", "lowerdir=/l"]
        value = {"Type": "overlay", "Source": "overlay", "Target": "", "Options": options}
    return json.dumps([value], indent=4)


@pytest.fixture
def containerd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Containerd:
    return Containerd(tmp_path, monkeypatch)


def test_the_tree_of_snapshots(containerd: Containerd) -> None:
    containerd.says(
        "ls",
        f"KEY   PARENT KIND\n{A}        Committed\n{B} {A} Committed\n0c1d-init {B} Committed\n"
        f"0c1d {B} Active\ncomposeapps-view-x {B} View\n\n",
    )
    assert containerd.snapshots.tree() == {
        A: Snapshot("", committed=True),
        B: Snapshot(A, committed=True),
        "0c1d-init": Snapshot(B, committed=True),
        "0c1d": Snapshot(B, committed=False),
        "composeapps-view-x": Snapshot(B, committed=False),
    }
    assert containerd.asked == ["snapshots --snapshotter overlayfs ls"]


@pytest.mark.parametrize("text", ["", "\n", "KEY PARENT KIND", "KEY PARENT KIND\na b c d e\n x\n"])
def test_no_snapshots(containerd: Containerd, text: str) -> None:
    containerd.says("ls", text)
    assert containerd.snapshots.tree() == {}


@pytest.mark.parametrize("bind", [True, False], ids=["first layer", "upper layer"])
def test_the_link_is_made_before_the_commit(
    containerd: Containerd, tmp_path: Path, bind: bool
) -> None:
    path = containerd.prepares(7, bind=bind)
    link = ChainLink(B, "" if bind else A, tmp_path / "layers" / "x")
    assert containerd.snapshots.make(link, {}) == path
    assert path.readlink() == link.target
    verbs = [line.split()[3] if "snapshots" in line else line for line in containerd.asked]
    assert verbs == ["prepare", "commit", "linked already"]
    prepare = next(line for line in containerd.asked if "prepare" in line)
    assert prepare.endswith(f"composeapps-{hex_of(B)}" if bind else f"{hex_of(B)} {A}")


def test_what_an_interrupted_run_left_is_removed_first(
    containerd: Containerd, tmp_path: Path
) -> None:
    key = f"composeapps-{hex_of(B)}"
    containerd.says("ls", f"KEY PARENT KIND\n{key} Active\n")
    containerd.prepares(3, bind=True)
    containerd.snapshots.make(ChainLink(B, "", tmp_path), containerd.snapshots.tree())
    told = [line.removeprefix("snapshots --snapshotter overlayfs ") for line in containerd.asked]
    assert told[:2] == ["ls", f"rm {key}"]


@pytest.mark.parametrize("case", ["name", "place", "file", "link"])
def test_a_snapshotter_of_another_layout_is_refused_and_nothing_is_committed(
    containerd: Containerd, tmp_path: Path, case: str
) -> None:
    path = containerd.prepares(1, bind=True)
    if case == "name":
        (path.parent / "diff").mkdir()
        containerd.says("prepare", mount(path.parent / "diff", bind=True))
    elif case == "place":
        (tmp_path / "elsewhere" / "1" / "fs").mkdir(parents=True)
        containerd.says("prepare", mount(tmp_path / "elsewhere" / "1" / "fs", bind=True))
    else:
        path.rmdir()
        path.write_text("") if case == "file" else path.symlink_to("/nowhere")
    with pytest.raises(EngineError, match="laid out in an unknown way"):
        containerd.snapshots.make(ChainLink(B, "", tmp_path), {})
    assert not any("commit" in line for line in containerd.asked)


@pytest.mark.parametrize(
    "output", ["", "no", "[]", "{}", "5", '"x"', "[5]", "[[]]", "null", "[null]", "[" * 5]
)
def test_mounts_that_name_no_directory(output: str) -> None:
    for read in (snapshots._upper_directory, snapshots._lower_directories):
        with pytest.raises(EngineError, match="containerd named no directory"):
            read(output)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["Type", "Source", "Options"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_answer_is_read_or_refused(value: object) -> None:
    for read in (snapshots._upper_directory, snapshots._lower_directories):
        try:
            read(json.dumps(value))
        except EngineError as error:
            assert "containerd named no directory" in str(error)


def test_lower_directories_from_the_top_down() -> None:
    options = ["index=off", "lowerdir=/s/3/fs:/s/2/fs:/s/1/fs"]
    view = json.dumps([{"Type": "overlay", "Source": "overlay", "Options": options}])
    paths = [Path(f"/s/{number}/fs") for number in (3, 2, 1)]
    assert snapshots._lower_directories(view) == paths
    single = json.dumps([{"Type": "bind", "Source": "/s/1/fs", "Options": ["ro", "rbind"]}])
    assert snapshots._lower_directories(single) == [Path("/s/1/fs")]


def test_a_view_is_made_and_dropped_for_the_directories(containerd: Containerd) -> None:
    containerd.says("view", mount(Path("/s/1/fs"), bind=True))
    assert containerd.snapshots.directories(A) == [Path("/s/1/fs")]
    view = next(line for line in containerd.asked if "view" in line)
    assert view.endswith(f"view --mounts composeapps-view-{hex_of(A)} {A}")


def test_containerd_that_fails_is_told(containerd: Containerd) -> None:
    containerd.says("ls.fails", "")
    with pytest.raises(EngineError, match=r"containerd: `ctr .* ls` ended with 1: ctr: no"):
        containerd.snapshots.tree()
    containerd.says("content.fails", "")
    assert containerd.snapshots.content(A) == b""


def test_no_ctr_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="is not installed"):
        Snapshots("/run/containerd.sock", tmp_path).tree()
    assert Snapshots("/run/containerd.sock", tmp_path).content(A) == b""


def test_only_what_is_known_is_forgotten(containerd: Containerd) -> None:
    containerd.says("content", f"{A}\n")
    containerd.snapshots.remove_content([A, B])
    assert containerd.asked[-1] == f"content rm {A}"
    containerd.snapshots.remove_content([B])
    assert containerd.asked[-1] == "content ls -q"
    containerd.says("images", "r.test/web@sha256:x\n")
    containerd.snapshots.remove_image("r.test/web@sha256:y")
    assert containerd.asked[-1] == "images ls -q"
    containerd.snapshots.remove_image("r.test/web@sha256:x")
    assert containerd.asked[-1] == "images rm --sync r.test/web@sha256:x"


def test_the_snapshots_directory_is_durable_before_the_commit(
    containerd: Containerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """containerd made the entry in it and syncs only its database."""
    path = containerd.prepares(7, bind=True)
    steps: list[str] = []
    real_ctr, real_sync = containerd.snapshots._ctr, durable.fsync_dir

    def ctr(*arguments: str) -> str:
        steps.append(arguments[3])
        return real_ctr(*arguments)

    def sync(directory: Path) -> None:
        steps.append(directory.name)
        real_sync(directory)

    monkeypatch.setattr(containerd.snapshots, "_ctr", ctr)
    monkeypatch.setattr(durable, "fsync_dir", sync)
    containerd.snapshots.make(ChainLink(B, "", tmp_path / "layers" / "x"), {})
    assert steps == ["prepare", path.parent.name, "snapshots", "commit"]
