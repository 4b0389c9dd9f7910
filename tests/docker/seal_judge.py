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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

from composeapps import erofstool
from composeapps.config import SealSettings
from composeapps.errors import ComposeAppsError
from composeapps.mounts import mount_layer, unmount
from composeapps.oci import chain_ids
from composeapps.seal import Sealed, seal
from composeapps.store import SealedLayer

SNAPSHOTS = Path("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots")
STORE = Path("/var/lib/composeapps/judge")
MOUNTS = Path("/run/judge")
#: What a program inside prints of every name: type, mode, owner, links, time, device; and of every
#: file what is in it.
LOOK = (
    "B=/bin/busybox;"
    "$B find / -xdev -exec $B stat -c '%F|%a|%u|%g|%h|%Y|%t:%T|%n' {} \\; ;"
    "$B find / -xdev -type f -exec $B md5sum {} \\; | $B sed 's/  /|/'"
)
#: Names that the engine makes or changes in a container.
ENGINES = {b"", b"/", b"/etc", b"/.dockerenv"} | {
    b"/etc/" + name for name in (b"hosts", b"hostname", b"resolv.conf", b"mtab")
}
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
                    # Docker 28 says it so, after it has said "Loaded image".
                    if line.get("stream", "").startswith("Error unpacking"):
                        refused = line["stream"]
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
        """Compare the chains as overlays, and a real container with a program inside ours."""
        trees = []
        for places in (self.engine, self.mounted):
            with overlay([places[chain] for chain in reversed(chains)]) as target:
                trees.append(walk(target))
                if places is self.mounted:
                    command = ["chroot", str(target), "/bin/busybox", "sh", "-c", LOOK]
                    ours = subprocess.run(command, capture_output=True, check=False).stdout
        result = [f"merged: {text}" for text in differences(trees[0], trees[1], self.started)]
        theirs = seen(self.in_container(name))
        if len(theirs) < 10:
            result.append("no program ran inside the container")
        for line in sorted(theirs ^ seen(ours))[:20]:
            where = "the container" if line in theirs else "the sealed chain"
            result.append(f"only a program in {where} sees {line!r}")
        return result

    def in_container(self, name: str) -> bytes:
        """Run a program in a container of the engine's own, and return what it printed."""
        command = ["/bin/busybox", "sh", "-c", LOOK]
        host = self.client.create_host_config(network_mode="none")
        container = self.client.create_container(name, command, host_config=host)["Id"]
        try:
            self.client.start(container)
            self.client.wait(container)
            printed: bytes = self.client.logs(container, stderr=False)
        finally:
            self.client.remove_container(container, force=True)
        return printed

    def without_room(self, request: Node) -> Node:
        """Seal a layer where there is too little room for it."""
        target = MOUNTS / "small"
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(target)], check=True)
        blob = Path(request["blob"])
        answer = {"error": "", "left": [""]}
        # Room for the data but not for the sealed file as well: only mkfs.erofs finds out.
        erofstool.ROOM = request["room"]
        try:
            diff_id, output = request["diff_id"], target / "output"
            seal(lambda: blob.open("rb"), diff_id, [], output, SealSettings(compression="lz4"))
        except ComposeAppsError as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        answer["left"] = os.listdir(target)
        subprocess.run(["umount", str(target)], check=True)
        return answer

    def forget(self) -> None:
        """Unmount and remove what was sealed, so that thousands of layers do not pile up."""
        for chain, target in self.mounted.items():
            unmount(target)
            self.files[chain].unlink()
        self.mounted.clear()
        self.files.clear()


@contextmanager
def overlay(layers: list[Path]) -> Iterator[Path]:
    """Mount layers, topmost first, over one another."""
    target = MOUNTS / "merged"
    target.mkdir(parents=True, exist_ok=True)
    # Short names: mount(8) can pass 255 bytes only.
    for number, layer in enumerate(layers):
        short = Path(f"/run/{number}")
        short.unlink(missing_ok=True)
        short.symlink_to(layer)
    options = "ro,lowerdir=" + ":".join(f"/run/{number}" for number in range(len(layers)))
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True)


def seen(printed: bytes) -> set[bytes]:
    """Return what a program saw, without what the engine puts into every container."""
    lines = set()
    # The engine's log keeps no bytes that are not UTF-8.
    for line in printed.decode("utf-8", "replace").encode().split(b"\n"):
        parts = line.split(b"|")
        name = parts[-1]
        if name in ENGINES or name.startswith((b"/dev", b"/proc", b"/sys")):
            continue
        # Times that are "now" in the engine's tree are 0 in a sealed one.
        if len(parts) == 8 and (parts[5] == b"0" or int(parts[5]) > time.time() - 3600):
            parts[5] = b"-"
        lines.add(b"|".join(parts))
    return lines


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
        answer: Node = {}
        if request.get("forget"):
            judge.forget()
        elif "room" in request:
            answer = judge.without_room(request)
        else:
            answer = judge.judge(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
