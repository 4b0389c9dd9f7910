"""A kernel or an engine that lacks what sealed layers need: one clear sentence each, no reset.

``mount`` and Docker's answers are stand-ins: this machine has what they lack.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from composeapps import install, ladder, mounts, reset
from composeapps.engine import Engine
from composeapps.errors import EngineError, IntegrityError, UnsupportedError
from composeapps.store import SealedLayer

LOOP = "mount: failed to setup loop device for /x.erofs"
BAD = "mount: wrong fs type, bad option, bad superblock on /dev/loop0"


@pytest.fixture
def by_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that mounts by loop, where ``mount`` says something and fails."""
    layer = SealedLayer(tmp_path / "x.erofs", "sha256:a", "", "sha256:b")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def mount(says: str, kernel: str) -> None:
        (tmp_path / "mount").write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 32\n")
        (tmp_path / "mount").chmod(0o755)
        (tmp_path / "filesystems").write_text(kernel)
        monkeypatch.setattr(mounts, "FILESYSTEMS", tmp_path / "filesystems")
        mounts.mount_layer(layer, tmp_path / "layers", "loop")

    return mount


def test_a_kernel_without_erofs(by_loop: Any) -> None:
    with pytest.raises(UnsupportedError, match="no EROFS: it needs CONFIG_EROFS_FS"):
        by_loop("mount: unknown filesystem type erofs.", "nodev\tproc\n\text4\n")


def test_a_kernel_without_loop_devices(by_loop: Any) -> None:
    with pytest.raises(UnsupportedError, match="CONFIG_BLK_DEV_LOOP"):
        by_loop(LOOP, "nodev\tproc\n\terofs\n")


def test_a_file_that_is_no_layer_is_not_the_kernels_fault(by_loop: Any) -> None:
    with pytest.raises(IntegrityError, match="cannot be mounted"):
        by_loop(BAD, "nodev\tproc\n\terofs\n")


@pytest.mark.parametrize(
    ("code", "way", "says"),
    [
        (errno.ENOTBLK, "file", "Linux 6.12"),
        (errno.ENODEV, "auto", "CONFIG_EROFS_FS"),
        (errno.EOPNOTSUPP, "auto", "seal.compression"),
        (errno.EPERM, "auto", "as root"),
    ],
)
def test_what_mounting_directly_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, way: str, says: str
) -> None:
    monkeypatch.setattr(mounts, "_mount", lambda file, target: code)
    layer = SealedLayer(tmp_path / "x.erofs", "sha256:a", "", "sha256:b")
    with pytest.raises(UnsupportedError, match=says):
        mounts.mount_layer(layer, tmp_path, way)


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"ServerVersion": "24.0.7"}, "Docker 24.0.7 is too old"),
        ({"DriverStatus": [["Backing Filesystem", "extfs"]]}, "image store is off"),
        ({"Driver": "btrfs"}, "image store is off"),
    ],
)
def test_an_engine_that_cannot(info: dict[str, Any], says: str) -> None:
    good: dict[str, Any] = {
        "ServerVersion": "26.1.5",
        "Driver": "overlayfs",
        "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
    }

    class Client:
        def __init__(self, value: dict[str, Any]) -> None:
            self.info = lambda: value

    engine = Engine("unix:///nowhere")
    engine._client = Client(good)  # type: ignore[assignment]
    assert engine.check() == "26.1.5"
    engine._client = Client(good | info)  # type: ignore[assignment]
    with pytest.raises(UnsupportedError, match=says):
        engine.check()


def test_no_engine_is_reset_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plan: Any = None
    device: Any = None

    def refuse(*_: Any) -> None:
        raise UnsupportedError("no EROFS")

    monkeypatch.setattr(install, "tell", refuse)
    monkeypatch.setattr(reset, "start_engine", lambda device: pytest.fail("started"))
    monkeypatch.setattr(reset, "reset_engine", lambda *_: pytest.fail("reset"))
    with pytest.raises(EngineError, match="no EROFS"):
        ladder._tell(device, plan)
