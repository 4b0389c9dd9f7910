"""Runs in the tree, beside the engine: lets it load an image, seals the same layers, compares.

One JSON request a line on standard input, one JSON answer a line on standard output, so that very
many images need one process. Request: ``name``, ``archive`` (for ``images/load``), ``layers``
(each ``blob`` and ``diff_id``), ``merged`` (compare the whole chain too, and run a program in it).
Answer: ``engine`` and ``sealed`` (what each refused, empty where nothing), ``layers`` compared,
``differences``.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

from composeapps.config import SealSettings
from composeapps.errors import ComposeAppsError
from composeapps.mounts import mount_layer, unmount
from composeapps.oci import chain_ids
from composeapps.seal import Sealed, seal
from composeapps.store import SealedLayer

SNAPSHOTS = Path("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots")
STORE = Path("/var/lib/composeapps/judge")
MOUNTS = Path("/run/judge")
#: Printed by a program inside the container, for every name: type, mode, owner, size, time, device.
STAT = "find / -xdev -exec stat -c '%n|%F|%a|%u|%g|%Y|%t:%T|%h' {} \\; 2>&1"
Node = dict[str, Any]


@dataclass
class Judge:
    """What is known so far: one engine, and where each chain lies on either side."""

    client: Any = field(default_factory=lambda: docker.APIClient(timeout=300))
    started: int = field(default_factory=time.time_ns)
    engine: dict[str, Path] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    mounted: dict[str, Path] = field(default_factory=dict)

    def judge(self, request: Node) -> Node:
        """Answer one request."""
        chains = chain_ids([layer["diff_id"] for layer in request["layers"]])
        refused = self.load(request, chains)
        sealed, differences = "", []
        compared = 0
        try:
            for index, layer in enumerate(request["layers"]):
                self.seal(layer, chains[: index + 1])
                if chains[index] in self.engine:
                    differences += self.compare(chains[index])
                    compared += 1
        except ComposeAppsError as error:
            sealed = f"{type(error).__name__}: {error}"
        if request.get("merged") and not refused and not sealed:
            differences += self.compare_merged(request["name"], chains)
        return {
            "engine": refused,
            "sealed": sealed,
            "layers": compared,
            "differences": differences,
        }

    def load(self, request: Node, chains: list[str]) -> str:
        """Let the engine unpack an image, and note where each new chain lies; return its error."""
        before = {int(name) for name in os.listdir(SNAPSHOTS)} if SNAPSHOTS.exists() else set()
        refused = ""
        with open(request["archive"], "rb") as archive:
            try:
                for line in self.client.load_image(archive):
                    refused = refused or str(line.get("error") or "")
            except docker.errors.APIError as error:
                refused = str(error)
        new = sorted({int(name) for name in os.listdir(SNAPSHOTS)} - before)
        unknown = [chain for chain in chains if chain not in self.engine]
        if not refused:
            assert len(new) == len(unknown), (new, unknown)
            for chain, number in zip(unknown, new, strict=True):
                self.engine[chain] = SNAPSHOTS / str(number) / "fs"
        return refused

    def seal(self, layer: Node, chains: list[str]) -> None:
        """Seal and mount the last layer of a chain, if that is not done yet."""
        chain = chains[-1]
        if chain in self.mounted:
            return
        output = STORE / f"{chain[7:]}.erofs"
        blob = Path(layer["blob"])
        lower = [self.files[below] for below in chains[:-1]]
        sealed = self._seal(blob, layer["diff_id"], lower, output)
        if not sealed.chain_dependent and lower:
            alone = self._seal(blob, layer["diff_id"], [], STORE / "alone.erofs")
            assert alone == sealed, "a layer that serves every chain came out differently"
        self.files[chain] = output
        known = SealedLayer(output, layer["diff_id"], chain, sealed.digest)
        self.mounted[chain] = mount_layer(known, MOUNTS)

    def _seal(self, blob: Path, diff_id: str, lower: list[Path], output: Path) -> Sealed:
        try:
            # Each way of storing data in turn, the same one for the same layer.
            way = ("lz4hc", "lz4", "none")[int(diff_id[-1], 16) % 3]
            settings = SealSettings(compression=way)
            return seal(lambda: blob.open("rb"), diff_id, lower, output, settings)
        except ComposeAppsError:
            assert not output.exists(), "a refused layer left something behind"
            raise

    def compare(self, chain: str) -> list[str]:
        """Compare a sealed layer with the engine's own unpacked one."""
        return differences(walk(self.engine[chain]), walk(self.mounted[chain]), self.started)

    def compare_merged(self, name: str, chains: list[str]) -> list[str]:
        """Compare the chains as overlays, from outside and by a program that runs inside them."""
        found = []
        for index, places in enumerate((self.engine, self.mounted)):
            target = MOUNTS / f"merged{index}"
            target.mkdir(parents=True, exist_ok=True)
            # Short names: mount(8) can pass 255 bytes only.
            for number, chain in enumerate(reversed(chains)):
                short = Path(f"/run/{number}")
                short.unlink(missing_ok=True)
                short.symlink_to(places[chain])
            lower = ":".join(f"/run/{number}" for number in range(len(chains)))
            options = f"ro,lowerdir={lower}"
            subprocess.run(
                ["mount", "-t", "overlay", "overlay", "-o", options, str(target)], check=True
            )
            inside = subprocess.run(
                ["chroot", str(target), "/bin/busybox", "sh", "-c", STAT],
                capture_output=True,
                check=False,
            )
            found.append((walk(target), sorted(inside.stdout.split(b"\n"))))
        for index in range(2):
            subprocess.run(["umount", str(MOUNTS / f"merged{index}")], check=True)
        (outside, inside_engine), (sealed, inside_sealed) = found
        result = [f"merged: {text}" for text in differences(outside, sealed, self.started)]
        own = self.client.create_container(name, ["/bin/busybox", "sh", "-c", STAT])
        self.client.remove_container(own["Id"])
        if len(inside_engine) < 10:
            result.append("no program ran inside the chain")
        if [_timeless(line) for line in inside_engine] != [
            _timeless(line) for line in inside_sealed
        ]:
            result.append("a program inside sees another tree")
        return result

    def forget(self) -> None:
        """Unmount and remove what was sealed, so that thousands of layers do not pile up."""
        for chain, target in self.mounted.items():
            unmount(target)
            self.files[chain].unlink()
        self.mounted.clear()
        self.files.clear()


def _timeless(line: bytes) -> bytes:
    """Leave out times that are "now" in the engine's tree and 0 in a sealed one."""
    parts = line.split(b"|")
    if len(parts) == 8 and (parts[5] == b"0" or int(parts[5]) > time.time() - 3600):
        parts[5] = b"-"
    return b"|".join(parts)


def walk(root: Path) -> dict[bytes, Node]:
    """Return everything below a directory, and the directory, by path."""
    top = os.fsencode(root)
    found: dict[bytes, Node] = {}
    inodes: dict[tuple[int, int], list[bytes]] = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        full = top + path
        try:
            status = os.lstat(full)
        except FileNotFoundError:
            # An overlay lists whiteouts where a directory is in one layer only.
            found[path] = {"mode": "listed only", "mtime": 0}
            continue
        node = found[path] = _node(full, status)
        if stat.S_ISDIR(status.st_mode):
            pending += [path + b"/" + name for name in os.listdir(full)]
        elif status.st_nlink > 1:
            inodes.setdefault((status.st_dev, status.st_ino), []).append(path)
            node["links"] = status.st_nlink
    for paths in inodes.values():
        for path in paths:
            found[path]["same file"] = sorted(paths)
    return found


def _node(full: bytes, status: os.stat_result) -> Node:
    node: Node = {
        "mode": oct(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime": status.st_mtime_ns,
        "xattrs": {
            name: os.getxattr(full, name, follow_symlinks=False)
            for name in os.listxattr(full, follow_symlinks=False)
        },
    }
    if stat.S_ISREG(status.st_mode):
        with open(full, "rb") as file:
            node["data"] = hashlib.file_digest(file, "sha256").hexdigest()
        node["size"] = status.st_size
    elif stat.S_ISLNK(status.st_mode):
        node["target"] = os.readlink(full)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        node["device"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
    return node


def differences(engine: dict[bytes, Node], sealed: dict[bytes, Node], started: int) -> list[str]:
    """Return in words how two trees differ; a time that is "now" in the engine's has to be 0."""
    result = [f"{path!r} is only in the engine's tree" for path in sorted(engine.keys() - sealed)]
    result += [f"{path!r} is only in the sealed tree" for path in sorted(sealed.keys() - engine)]
    for path in sorted(engine.keys() & sealed):
        mine, theirs = sealed[path], engine[path]
        if theirs["mtime"] >= started and mine["mtime"] == 0:
            theirs = {**theirs, "mtime": 0}
        for key in sorted(mine.keys() | theirs):
            if mine.get(key) != theirs.get(key):
                result.append(
                    f"{path!r}: {key} is {theirs.get(key)} in the engine's tree, "
                    f"{mine.get(key)} in the sealed one"
                )
    return result[:50]


def main() -> None:
    """Answer requests until there are no more."""
    STORE.mkdir(parents=True, exist_ok=True)
    judge = Judge()
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("forget"):
            judge.forget()
            answer: Node = {}
        else:
            answer = judge.judge(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
