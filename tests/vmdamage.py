"""Twelve kinds of damage to the engine's store, for a device in a virtual machine.

Each is a shell script that runs in the guest while the engine is stopped, unless it says otherwise.
What the engine then says is known from public reports; ``composeapps.damage`` lists more of them.
"""

from __future__ import annotations

from dataclasses import dataclass

CONTAINERD, DOCKER = "/var/lib/containerd", "/var/lib/docker"
SNAPSHOTS = f"{CONTAINERD}/io.containerd.snapshotter.v1.overlayfs"
CONTENT = f"{CONTAINERD}/io.containerd.content.v1.content/blobs/sha256"
META = f"{CONTAINERD}/io.containerd.metadata.v1.bolt/meta.db"
_GARBAGE = "head -c 80000 /dev/urandom >"


@dataclass(frozen=True)
class Kind:
    """One kind of damage."""

    name: str
    script: str
    #: Where the same was met in the field, or what it stands for.
    source: str
    #: The engine is started again at once: the resident part has to find it; else the next boot.
    running: bool = False
    #: A file whose inode is cleared on the medium, while the machine is off.
    cleared: str = ""


KINDS = (
    Kind("containerd-database", f"{_GARBAGE}{META}", "moby#37238, containerd#3347", running=True),
    Kind("snapshot-directories", f"rm -rf {SNAPSHOTS}/snapshots/*", "containerd#3369"),
    Kind("snapshotter-database", f": >{SNAPSHOTS}/metadata.db", "containerd#5797"),
    Kind("network-database", f"{_GARBAGE}{DOCKER}/network/files/local-kv.db", "moby#42099"),
    Kind("volume-database", f"{_GARBAGE}{DOCKER}/volumes/metadata.db", "bbolt#705"),
    Kind("content-empty", f"for f in {CONTENT}/*; do : >$f; done", "containerd#10457"),
    Kind("content-gone", f"rm -rf {CONTENT}/*", "containerd#1674"),
    Kind(
        "layers-empty",
        f"for l in {SNAPSHOTS}/snapshots/*/fs; do "
        '[ ! -L "$l" ] || { rm "$l"; mkdir "$l"; }; done',
        "an unpacked layer whose files a power cut took",
    ),
    Kind(
        "container-configs",
        f"for f in {DOCKER}/containers/*/config.v2.json; do : >$f; done",
        "a file that was renamed before its bytes were on the medium",
    ),
    Kind(
        "container-layers",
        f"for s in {SNAPSHOTS}/snapshots/*; do [ -L $s/fs ] || rm -rf $s; done",
        "docker/for-linux#478",
    ),
    Kind(
        "whole-stores",
        f"rm -rf {CONTAINERD}/*; find {DOCKER} -mindepth 1 -maxdepth 1 ! -name volumes "
        "-exec rm -rf {} +",
        "a person's rm -rf",
        running=True,
    ),
    Kind("cleared-inode", "true", "docker/for-mac#35: structure needs cleaning", cleared=META),
)
#: Nothing of ours may mend while the damage is done, but where it is to be found meanwhile.
QUIET = "systemctl stop composeapps.service composeapps-start.service"
STOP = "systemctl stop docker.socket docker.service containerd.service"
START = "systemctl start containerd.service docker.socket docker.service"
