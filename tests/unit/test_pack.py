"""Packing: the same files give the same bytes, and only what a device takes is packed."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from blobs import Blobs
from hypothesis import given
from hypothesis import strategies as st
from stock import write

from composeapps import artifact, projectdir
from composeapps.errors import ConfigError
from composeapps.publish import pack

FILES = {"conf/a": "a", "conf/deep/b": "b", "run": "#!/bin/sh\n", "größe/x": "x"}


def packed(root: Path, *names: str, without: tuple[str, ...] = ()) -> bytes:
    return pack.write(pack.collect(root, dict.fromkeys(names, "service web"), without), 1024**2)


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def test_same_files_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "1", FILES), write(tmp_path / "2" / "3", FILES)
    for path in second.rglob("*"):
        os.utime(path, (12345, 67890))
        path.chmod(0o700 if path.is_dir() else 0o666)
    if os.geteuid() == 0:
        os.chown(second / "run", 1234, 1234)
    names = list(FILES)
    assert packed(first, *names) == packed(second, *reversed(names))
    (second / "run").chmod(0o755)
    assert packed(first, *names) != packed(second, *names)


def test_members_are_normal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, FILES)
    (root / "run").chmod(0o4711)
    (root / "conf" / "empty").mkdir()
    found = members(packed(root, "conf", "run"))
    assert list(found) == ["conf/a", "conf/deep/b", "conf/empty", "run"]
    assert {name: member.mode for name, member in found.items() if member.isreg()} == {
        "conf/a": 0o644,
        "conf/deep/b": 0o644,
        "run": 0o755,
    }
    for member in found.values():
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
        assert member.mtime == 0
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert {member.mtime for member in members(packed(root, "conf")).values()} == {1700000000}
    for bad in ("", "x", "-1", "99999999999999"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", bad)
        with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH has to be seconds"):
            packed(root, "conf")


def test_only_what_is_needed_and_each_once(tmp_path: Path) -> None:
    root = write(tmp_path, {**FILES, "other": "never"})
    assert list(members(packed(root, "conf", "conf/a", "conf/deep"))) == ["conf/a", "conf/deep/b"]
    assert list(members(packed(root, ".", without=("other", "run", "größe/x")))) == [
        "conf/a",
        "conf/deep/b",
    ]
    assert packed(root, "run", without=("run",)) == bytes(1024)


def test_what_is_packed_unpacks(tmp_path: Path) -> None:
    root = write(tmp_path / "maker", FILES)
    (root / "conf" / "link").symlink_to("../run")
    (root / "way").symlink_to("conf")
    blobs = Blobs()
    data = packed(root, "way/link", "größe")
    layers = [blobs.compose_file("services: {}"), blobs.files_tar(data)]
    parsed = artifact.parse(blobs[blobs.artifact(layers)["digest"]], "app")
    target = tmp_path / "device"
    target.mkdir()
    projectdir.unpack(parsed, blobs.open, target, "app")
    assert os.readlink(target / "way") == "conf"
    assert (target / "way" / "link").read_text() == "#!/bin/sh\n"
    assert (target / "größe" / "x").read_text() == "x"


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../..", "a/../b", "../p/../../x", "a//b"])
def test_links_that_lead_out_or_could(target: str, tmp_path: Path) -> None:
    root = write(tmp_path / "p", FILES)
    (root / "link").symlink_to(target)
    with pytest.raises(ConfigError, match="'link' is a link to"):
        packed(root, ".")


def test_a_file_that_goes_away_or_turns_into_a_link(tmp_path: Path) -> None:
    root = write(tmp_path, {"a": "a", "b": "b"})
    entries = pack.collect(root, {"a": "x", "b": "x"}, ())
    (root / "a").unlink()
    with pytest.raises(ConfigError, match="a cannot be read: No such file"):
        pack.write(entries)
    (root / "a").symlink_to("/etc/shadow")
    with pytest.raises(ConfigError, match="a cannot be read"):
        pack.write(entries)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "ENTRY_LIMIT", 2)
    root = write(tmp_path, {"d/a": "", "d/b": "", "d/c": ""})
    with pytest.raises(ConfigError, match="more than 2 files, at last d/c: put them into an image"):
        packed(root, "d")


def test_limit_counts_all_files_together(tmp_path: Path) -> None:
    root = write(tmp_path, {"a": "x" * 600_000, "b": "x" * 448_576})
    assert len(packed(root, "a", "b")) > 1024**2
    (root / "b").write_text("x" * 448_577)
    with pytest.raises(ConfigError, match=r"more than 1 MiB, at last .*b: put large data"):
        packed(root, "a", "b")


NAMES = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="/\\"), max_size=40
)


@given(st.lists(st.lists(NAMES, min_size=1, max_size=4), min_size=1, max_size=5))
def test_names_of_any_kind_are_packed_or_refused(paths: list[list[str]]) -> None:

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "maker")
        root.mkdir()
        for parts in paths:
            if {"", ".", ".."} & set(parts) or any(len(part.encode()) > 200 for part in parts):
                continue
            path = root.joinpath(*parts)
            if not any(parent.is_file() for parent in path.parents) and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("x")
        try:
            data = packed(root, ".")
        except ConfigError:
            return
        files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        blobs = Blobs()
        layers = [blobs.compose_file("", "compose.yaml"), blobs.files_tar(data)]
        if "compose.yaml" in files:
            return
        parsed = artifact.parse(blobs[blobs.artifact(layers)["digest"]], "app")
        target = Path(scratch, "device")
        target.mkdir()
        projectdir.unpack(parsed, blobs.open, target, "app")
        assert files == {
            str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()
        } - {"compose.yaml"}
