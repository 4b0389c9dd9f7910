"""Image layers written so that the same files give the same bytes.

Sources: OCI image-spec 1.1 ``layer.md`` (entries, parents first); POSIX.1-2008 pax. Equal digests
hold for one version of Python, zlib and zstandard; the cache keeps them equal for longer.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import zstandard

#: Seconds since 1970 (2025-01-01); the time of everything that no package dates.
MTIME = 1_735_689_600
#: Media types (OCI image-spec 1.1, layer.md).
GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"


@dataclass(frozen=True)
class Entry:
    """One file, directory or symbolic link."""

    kind: bytes
    mode: int
    data: bytes = b""
    link: str = ""
    uid: int = 0
    gid: int = 0
    mtime: int = MTIME


#: What a layer holds, by path without a leading slash.
Tree = Mapping[str, Entry]


def file(data: bytes, mode: int = 0o644) -> Entry:
    """Return a regular file."""
    return Entry(tarfile.REGTYPE, mode, data)


def directory(mode: int = 0o755, owner: int = 0) -> Entry:
    """Return a directory that user and group ``owner`` own."""
    return Entry(tarfile.DIRTYPE, mode, uid=owner, gid=owner)


def link(target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(tarfile.SYMTYPE, 0o777, link=target)


def files_below(source: Path, inside: str, names: Mapping[str, str]) -> dict[str, Entry]:
    """Return files of ``source`` (name there -> name in the layer) under the path ``inside``."""
    return {
        f"{inside}/{name}": file((source / there).read_bytes(), 0o755)
        for there, name in names.items()
    }


def with_parents(tree: Tree) -> dict[str, Entry]:
    """Return the tree with the directories that it only implies, as 0755 root, like Docker's."""
    complete = dict(tree)
    for path in tree:
        for parent in [str(parent) for parent in Path(path).parents][:-1]:
            complete.setdefault(parent, directory())
    return complete


def tar_bytes(tree: Tree) -> bytes:
    """Return the tree as an uncompressed tar, sorted by path, so that parents come first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, entry in sorted(tree.items()):
            member = tarfile.TarInfo(path)
            member.type = entry.kind
            member.mode = entry.mode
            member.uid, member.gid = entry.uid, entry.gid
            member.mtime = entry.mtime
            member.linkname = entry.link
            member.size = len(entry.data)
            archive.addfile(member, io.BytesIO(entry.data))
    return buffer.getvalue()


@dataclass(frozen=True)
class Layer:
    """A finished layer: compressed bytes, their media type, the digest of the tar."""

    media_type: str
    data: bytes
    diff_id: str


def pack(tree: Tree, media_type: str = GZIP_LAYER) -> Layer:
    """Write and compress a layer; ``media_type`` is GZIP_LAYER or ZSTD_LAYER."""
    tar = tar_bytes(with_parents(tree))
    if media_type == ZSTD_LAYER:
        data = zstandard.ZstdCompressor(level=10).compress(tar)
    else:
        data = gzip.compress(tar, compresslevel=6, mtime=0)
    return Layer(media_type, data, f"sha256:{hashlib.sha256(tar).hexdigest()}")
