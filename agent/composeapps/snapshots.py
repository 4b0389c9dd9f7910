"""The engine's snapshots, by ``ctr``: each one's ``fs`` becomes a link to a mounted sealed layer.

Only containerd's public snapshot service is used, and one fact of its overlayfs snapshotter: an
active snapshot is a directory with an ``fs`` in it, which is what its mount options name. The order
matters: containerd syncs its database and nothing else, so the link has to be durable before
``commit`` says that the layer is there.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composeapps import durable
from composeapps.errors import EngineError
from composeapps.oci import hex_of
from composeapps.process import ProcessError, run

#: dockerd's namespace in containerd (moby: daemon/config, ContainerdNamespace).
NAMESPACE = "moby"
SNAPSHOTTER = "overlayfs"
_KEY = "composeapps-"
#: Seconds; ctr does one small request, and a busy device may swap it in first.
_TIMEOUT = 60.0
#: containerd's garbage collector keeps what has this label (docs/garbage-collection.md).
_ROOT_LABEL = "containerd.io/gc.root"


@dataclass(frozen=True)
class ChainLink:
    """One layer of an image as the engine has to see it."""

    chain_id: str
    #: Chain ID of the layer below, empty for the first.
    parent: str
    #: Where its sealed layer is mounted.
    target: Path


@dataclass(frozen=True)
class Snapshot:
    """What containerd says of one snapshot."""

    #: Key of the one below, empty for the first.
    parent: str
    committed: bool


class Snapshots:
    """The snapshots of one containerd."""

    def __init__(self, socket: str, root: Path) -> None:
        self._socket = socket
        self._directory = _directory(root)

    def _ctr(self, *arguments: str) -> str:
        command = ["ctr", "--address", self._socket, "--namespace", NAMESPACE]
        try:
            return run([*command, *arguments], timeout=_TIMEOUT).decode("utf-8", "replace")
        except ProcessError as error:
            raise EngineError(f"containerd: {error}") from error

    def _snapshots(self, *arguments: str) -> str:
        return self._ctr("snapshots", "--snapshotter", SNAPSHOTTER, *arguments)

    def tree(self) -> dict[str, Snapshot]:
        """Return every snapshot by its key: chain IDs, and containers' own."""
        rows = [line.split() for line in self._snapshots("ls").splitlines()[1:]]
        return {
            row[0]: Snapshot(row[1] if len(row) == 3 else "", row[-1] == "Committed")
            for row in rows
            if len(row) in (2, 3)
        }

    def directories(self, chain_id: str) -> list[Path]:
        """Return the ``fs`` paths of a committed chain, from the top layer down.

        A short-lived view is made for it: containerd tells directories of nothing else.
        """
        key = f"{_KEY}view-{hex_of(chain_id)}"
        self._drop(key)
        output = self._snapshots("view", "--mounts", key, chain_id)
        self._drop(key)
        return _lower_directories(output)

    def make(self, link: ChainLink, known: Mapping[str, Snapshot]) -> Path:
        """Make and commit the snapshot of one layer; its ``fs`` is a durable link beforehand.

        Args:
            known: what ``tree`` returned before; what an interrupted run left is in it.

        Returns:
            the ``fs`` link.

        Raises:
            EngineError: containerd refused, or its snapshotter is not laid out as it has to be.
        """
        key = f"{_KEY}{hex_of(link.chain_id)}"
        if key in known:
            self._snapshots("rm", key)
        parent = [link.parent] if link.parent else []
        output = self._snapshots("prepare", "--mounts", key, *parent)
        path = _upper_directory(output)
        if path.name != "fs" or path.parent.parent != self._directory or not path.is_dir():
            raise EngineError(
                f"containerd's overlayfs snapshotter is laid out in an unknown way: {path}"
            )
        durable.replace_by_link(path, link.target)
        durable.fsync_dir(self._directory)
        self._snapshots("commit", link.chain_id, key)
        return path

    def keep(self, chain_id: str) -> None:
        """Protect a chain from containerd's garbage collector, as ``make`` does."""
        self._snapshots("label", chain_id, f"{_ROOT_LABEL}=composeapps")

    def release(self, chain_ids: Sequence[str]) -> None:
        """Leave chains to the garbage collector, which takes what no image or container needs.

        Removing a snapshot by name is not possible in general: containerd still counts children
        that its collector took (core/metadata, ``gc.go``: the parent's bucket is not updated).
        """
        known = self.tree()
        for chain_id in chain_ids:
            if chain_id in known:
                self._snapshots("label", chain_id, f"{_ROOT_LABEL}=")
        lease = f"{_KEY}collect"
        if lease in self._ctr("leases", "ls", "-q").split():
            self._ctr("leases", "rm", lease)
        self._ctr("leases", "create", "--id", lease)
        self._ctr("leases", "rm", "--sync", lease)

    def content(self, digest: str) -> bytes:
        """Return containerd's copy of a small blob, unverified; empty where it cannot be read."""
        command = ["ctr", "--address", self._socket, "--namespace", NAMESPACE]
        try:
            return run([*command, "content", "get", digest], timeout=_TIMEOUT)
        except ProcessError:
            return b""

    def remove_content(self, digests: Sequence[str]) -> None:
        """Make containerd forget blobs, so that they are stored anew at the next load."""
        known = set(self._ctr("content", "ls", "-q").split())
        gone = [digest for digest in digests if digest in known]
        if gone:
            self._ctr("content", "rm", *gone)

    def remove_image(self, name: str) -> None:
        """Make containerd forget an image by its name; one it does not know is no error."""
        if name in self._ctr("images", "ls", "-q").split():
            self._ctr("images", "rm", "--sync", name)

    def _drop(self, key: str) -> None:
        if key in self.tree():
            self._snapshots("rm", key)


def links(root: Path) -> list[Path]:
    """Return where the ``fs`` links of all snapshots lead, without asking containerd."""
    found = []
    try:
        entries = sorted(_directory(root).iterdir())
    except OSError:  # no engine ever ran here, or its medium is damaged
        return []
    for entry in entries:
        with contextlib.suppress(OSError):  # a container's own snapshot has a directory there
            found.append((entry / "fs").readlink())
    return found


def _directory(root: Path) -> Path:
    return root / f"io.containerd.snapshotter.v1.{SNAPSHOTTER}" / "snapshots"


def _upper_directory(mounts: str) -> Path:
    """Return the writable directory that an active snapshot's mounts name."""
    source, options = _first_mount(mounts)
    return Path(_option(options, "upperdir=") or source)


def _lower_directories(mounts: str) -> list[Path]:
    source, options = _first_mount(mounts)
    return [Path(part) for part in (_option(options, "lowerdir=") or source).split(":")]


def _first_mount(mounts: str) -> tuple[str, list[Any]]:
    """Return source and options of the first mount of a list that ``ctr`` printed."""
    try:
        first = json.loads(mounts)[0]
        source, options = first.get("Source") or "", first.get("Options") or []
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EngineError(f"containerd named no directory: {mounts[:200]!r}") from error
    if not isinstance(source, str) or not isinstance(options, list):
        raise EngineError(f"containerd named no directory: {mounts[:200]!r}")
    return source, options


def _option(options: list[Any], name: str) -> str:
    found = [text.removeprefix(name) for text in map(str, options) if text.startswith(name)]
    return found[0] if found else ""
