"""Which errors mean a damaged engine: what engines print, and faults of apps beside it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from composeapps import damage
from composeapps.config import Settings
from composeapps.errors import EngineError

ROOTS = ("/var/lib/docker", "/var/lib/containerd")
SNAPSHOT = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
DAMAGE = [
    f"failed to stat parent: stat {SNAPSHOT}/112/fs: no such file or directory",
    f"failed to create prepare snapshot dir: failed to create temp dir: stat {SNAPSHOT}: no such",
    f"content digest sha256:{'a' * 64}: not found",
    "Error response from daemon: layer does not exist",
    "stat /var/lib/docker/overlay2/f124d6/merged: no such file or directory",
    "panic: invalid page type: 4: 10",
    "panic: invalid freelist page: 48, page type is leaf",
    "assertion failed: Page expected to be: 3393, but self identifies as 6868074383292906018",
    "panic: freepages: failed to get all reachable pages (key[0]=x",
    'driver "overlayfs" failed to remove root filesystem: readdirent: input/output error',
    "open /var/lib/docker/containers/x/config.v2.json: input/output error",
    f"mkdir {SNAPSHOT}/9/work: structure needs cleaning",
]
OWN_FAULTS = [
    'failed to create shim task: OCI runtime create failed: runc create failed: exec: "nonsense": '
    "executable file not found in $PATH: unknown",
    "stat /usr/bin/app: no such file or directory",
    "open /data/file: input/output error",
    "Bind for 0.0.0.0:80 failed: port is already allocated",
    "network web_default not found",
    "no space left on device",
    "`docker-compose up` did not end within 300 s",
    "",
]


@pytest.mark.parametrize("text", DAMAGE)
def test_damage(text: str) -> None:
    assert "(as in " in damage.sign(f"`docker-compose up` ended with 1: {text}", ROOTS)


@pytest.mark.parametrize("text", OWN_FAULTS)
def test_no_damage(text: str) -> None:
    assert damage.sign(text, ROOTS) == ""


def test_resets_are_counted_by_boot_until_one_helps() -> None:
    values: dict[str, str] = {}
    state = SimpleNamespace(get=lambda key: values.get(key, ""), put=values.__setitem__)
    device: Any = SimpleNamespace(state=state, settings=Settings(), boot_id="one")
    error = EngineError("layer does not exist")
    for _ in range(damage.RESETS):
        assert damage.reason(device, error)
        damage.note_reset(device)
    assert damage.reason(device, error) == ""
    assert not damage.may_reset(device)
    device.boot_id = "two"
    assert damage.reason(device, error)
    device.boot_id = "one"
    damage.forget_resets(device)
    assert damage.may_reset(device)
