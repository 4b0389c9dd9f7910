"""A power cut while a release is installed: containerd knows a document whose file is gone.

It syncs its database, and the file's content, but not the directory that has the file's name. A
good release was taken for a bad one then, found by the campaign of power cuts.
"""

from __future__ import annotations

import itertools

import pytest
from rig import Rig

from testbed import Testbed

CONTENT = "/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256"
#: Does what an update does up to the middle of ``installing``; prints the images' documents.
INSTALL = """\
from pathlib import Path
from composeapps import config, install, state
from composeapps.device import Device
from composeapps.plan import make_plan
device = Device(config.load([Path("/etc/composeapps/composeapps.toml")]))
digest = device.state.get("target")
plan = make_plan(device, digest, online=False)
device.state.advance(digest, state.INSTALLING)
install.tell(device, plan)
for app in plan.apps:
    for image in app.images:
        print(*[document.digest for document in image.documents])
"""
MANIFEST, CONFIG = 0, 1
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def rig(testbed: Testbed) -> Rig:
    return Rig(testbed)


@pytest.mark.parametrize("document", [MANIFEST, CONFIG])
@pytest.mark.parametrize("left", [None, b"", b"garbage"])
def test_a_release_whose_document_was_lost_is_committed(
    rig: Rig, document: int, left: bytes | None
) -> None:
    rig.update({"a": rig.world.ticker(next(numbers))})
    version = rig.world.release({"a": rig.world.ticker(next(numbers))})
    rig.run("fetch")
    digests = rig.bed.run("python3", "-c", INSTALL).stdout.split()
    lost = rig.bed.path(f"{CONTENT}/{digests[document][7:]}")
    lost.unlink()
    if left is not None:
        lost.write_bytes(left)
    rig.bed.reboot()
    rig.bed.engine("start")
    with rig.offline():
        rig.run("start")
    assert rig.version() == version
    assert rig.json("verify", "--deep") == []
