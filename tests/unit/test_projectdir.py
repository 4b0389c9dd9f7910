"""Unpacking an app artifact: its files arrive, and nothing hostile leaves the directory."""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from blobs import Blobs, member, tar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composeapps import artifact, projectdir
from composeapps.errors import ComposeAppsError, ConfigError, IntegrityError, SpaceError

FILE = tarfile.REGTYPE
LINK = tarfile.SYMTYPE
DIRECTORY = tarfile.DIRTYPE


def unpack(directory: Path, data: bytes | None, **manifest: Any) -> Path:
    """Unpack an artifact with a Compose file and a tar; check that nothing lands beside it."""
    blobs = Blobs()
    layers = [blobs.compose_file("services: {}")]
    if data is not None:
        layers.append(blobs.files_tar(data))
    descriptor = blobs.artifact(layers, **manifest)
    root = directory / "root"
    root.mkdir()
    try:
        projectdir.unpack(
            artifact.parse(blobs[descriptor["digest"]], "app"), blobs.open, root, "app"
        )
    finally:
        assert os.listdir(directory) == ["root"]
        for path in root.rglob("*"):
            assert path.resolve().is_relative_to(root), path
    return root


def test_files_directories_and_links_arrive(tmp_path: Path) -> None:
    data = tar(
        member("conf/nginx.conf", b"user nobody;"),
        member("bin/run", b"#!/bin/sh\n", mode=0o755),
        member("empty", type=DIRECTORY, mode=0o755),
        member("conf/current", type=LINK, linkname="../bin/run"),
        member("größe", b"x"),
    )
    root = unpack(tmp_path, data)
    assert (root / "compose.yaml").read_text() == "services: {}"
    assert (root / "conf/nginx.conf").read_bytes() == b"user nobody;"
    assert (root / "conf/current").read_bytes() == b"#!/bin/sh\n"
    assert (root / "größe").is_file()
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in root.rglob("*")}
    assert (modes["nginx.conf"], modes["run"]) == (0o644, 0o755)
    assert (root / "empty").is_dir()


def test_set_user_id_and_world_writable_are_dropped(tmp_path: Path) -> None:
    root = unpack(tmp_path, tar(member("a", b"x", mode=0o6777, uid=7, gid=7)))
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o755
    assert (root / "a").stat().st_uid == os.geteuid()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("../x", b"")], "cannot be used"),
        ([member("/etc/cron.d/x", b"")], "cannot be used"),
        ([member("a/../../x", b"")], "cannot be used"),
        ([member("a", type=LINK, linkname="/etc"), member("a/x", b"")], "is a link to '/etc'"),
        ([member("a", type=LINK, linkname="..")], "is a link to '..'"),
        ([member("d/a", type=LINK, linkname="../..")], "is a link to"),
        ([member("a", type=LINK, linkname="b/../..")], "is a link to"),
        ([member("a", type=LINK, linkname="")], "is a link to ''"),
        ([member("a", type=LINK, linkname="b"), member("a/x", b"")], "no directory"),
        ([member("a", b""), member("a/x", b"")], "no directory"),
        ([member("a", b"1"), member("a", b"2")], "twice"),
        ([member("a", b"1"), member("a", type=LINK, linkname="b")], "twice"),
        ([member("compose.yaml", b"1")], "'compose.yaml' twice"),
        ([member("a", type=tarfile.CHRTYPE, devmajor=1, devminor=3)], "neither a file"),
        ([member("a", type=tarfile.BLKTYPE)], "neither a file"),
        ([member("a", type=tarfile.FIFOTYPE)], "neither a file"),
        ([member("a", b""), member("b", type=tarfile.LNKTYPE, linkname="a")], "neither a file"),
        ([member("a", type=tarfile.CONTTYPE)], "neither a file"),
        ([member("a", b"x", type=tarfile.GNUTYPE_SPARSE)], "neither a file"),
        ([member("a", b"x", type=DIRECTORY)], "cannot be used|has content"),
    ],
)
def test_hostile_entries_are_refused(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        unpack(tmp_path, tar(*members))


def test_links_cannot_climb_through_each_other(tmp_path: Path) -> None:
    # Each step stays inside, so together they do; `up/..` is what would not.
    chain = [
        member("d/e/up", type=LINK, linkname="../.."),
        member("v", type=LINK, linkname="d/e/up"),
    ]
    root = unpack(tmp_path, tar(*chain))
    assert (root / "v").resolve() == root
    with pytest.raises(ConfigError, match="is a link"):
        unpack_again = tmp_path / "again"
        unpack_again.mkdir()
        unpack(unpack_again, tar(chain[0], member("w", type=LINK, linkname="d/e/up/..")))


@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_other_tar_dialects_are_refused(tmp_path: Path, dialect: int) -> None:
    long_name = "d/" + "x" * 150
    with pytest.raises(ConfigError, match=r"neither a file|plain ustar"):
        unpack(tmp_path, tar(member(long_name, b"x"), dialect=dialect))


def test_damaged_tars(tmp_path: Path) -> None:
    good = tar(member("a", b"hello"))
    broken = bytearray(good)
    broken[0] ^= 1
    cases: list[tuple[bytes, type[ComposeAppsError]]] = [
        (b"", IntegrityError),
        (good[:100], IntegrityError),
        (good[:514], IntegrityError),
        (good[:1024], IntegrityError),
        (bytes(broken), IntegrityError),
        (b"\x1f\x8b" + bytes(1000), ConfigError),
    ]
    for number, (data, error) in enumerate(cases):
        directory = tmp_path / str(number)
        directory.mkdir()
        with pytest.raises(error):
            unpack(directory, data)


def test_blobs_that_lie_are_refused(tmp_path: Path) -> None:
    blobs = Blobs()
    layers = [blobs.compose_file("services: {}"), blobs.files_tar(tar(member("a", b"hello")))]
    parsed = artifact.parse(blobs[blobs.artifact(layers)["digest"]], "app")
    for number, blob in enumerate(parsed.blobs):
        right = blobs[blob.digest]
        for change, lie in enumerate((right[:-1], right + b"x", bytes([right[0] ^ 1]) + right[1:])):
            root = tmp_path / f"{number}-{change}"
            root.mkdir()
            blobs[blob.digest] = lie
            with pytest.raises(IntegrityError):
                projectdir.unpack(parsed, blobs.open, root, "app")
        blobs[blob.digest] = right


def test_number_of_entries_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projectdir, "ENTRY_LIMIT", 5)
    with pytest.raises(ConfigError, match="more than 5 files"):
        unpack(tmp_path, tar(*(member(f"f{number}", b"") for number in range(7))))


def test_deep_implied_directories_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projectdir, "ENTRY_LIMIT", 40)
    deep = "/".join("abcdefghijklmnopqrstuvwxyz")
    with pytest.raises(ConfigError, match="more than 40 files"):
        unpack(tmp_path, tar(member(f"1/{deep}", b""), member(f"2/{deep}", b""), member("x", b"")))


def test_directory_and_env_files_have_to_be_there(tmp_path: Path) -> None:
    data = tar(member("web/a", b""), member("b", b""))
    for number, (extra, message) in enumerate(
        (
            ({artifact.DIRECTORY: "nope"}, "no directory 'nope'"),
            ({artifact.DIRECTORY: "b"}, "no directory 'b'"),
            ({artifact.ENV_FILES: '["nope"]'}, "no env file 'nope'"),
        )
    ):
        directory = tmp_path / str(number)
        directory.mkdir()
        with pytest.raises(ConfigError, match=message):
            unpack(directory, data, annotations=extra)
    directory = tmp_path / "good"
    directory.mkdir()
    unpack(directory, data, annotations={artifact.DIRECTORY: "web", artifact.ENV_FILES: '["b"]'})


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small tmpfs")
def test_full_file_system(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "small")
    assert os.system(f"mount -t tmpfs -o size=64k tmpfs {tmp_path}/small") == 0
    try:
        with pytest.raises(SpaceError, match="no room"):
            unpack(tmp_path / "small", tar(member("a", bytes(1024 * 1024))))
    finally:
        assert os.system(f"umount {tmp_path}/small") == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_mutated_tars_never_escape(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(
        tar(
            member("a/b", b"hello"),
            member("l", type=LINK, linkname="a/b"),
            member("e", type=DIRECTORY, mode=0o755),
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 2600))] = data.draw(st.integers(0, 255))
    for start in range(0, 2560, 512):  # so that a change is met, and not only its checksum
        header = whole[start : start + 512]
        if header[257:262] == b"ustar":
            total = sum(header[:148]) + sum(header[156:]) + 256
            whole[start + 148 : start + 156] = b"%06o\0 " % total
    directory = tmp_path / os.urandom(8).hex()
    directory.mkdir()
    with contextlib.suppress(ComposeAppsError):
        unpack(directory, bytes(whole))
