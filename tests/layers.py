"""Makers of odd layers and of images with them: raw tar, byte by byte, nothing corrected.

``tarfile`` would not write most of what is needed here. Sources: POSIX.1-2001 pax (ustar, pax
records), GNU tar manual "Tar Internals" (GNU headers, sparse formats), OCI image-spec 1.1.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import zstandard

V7, USTAR, GNU, STAR = b"", b"ustar\00000", b"ustar  \0", b"ustar\00000tar\0"
FILE, LINK, SYMLINK, CHAR, BLOCK, DIR, FIFO = b"0123456"
END = bytes(1024)
#: struct vfs_cap_data, revision 2: cap_net_bind_service, effective.
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def octal(value: int, width: int) -> bytes:
    """Return a number as octal digits and a NUL; base 256 where it does not fit."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return base256(value, width)


def base256(value: int, width: int) -> bytes:
    """Return a number in GNU's base 256, negative ones too."""
    first = b"\xff" if value < 0 else b"\x80"
    return first + (value & (1 << 8 * (width - 1)) - 1).to_bytes(width - 1, "big")


def header(
    name: bytes | str,
    kind: int = FILE,
    *,
    size: int | bytes = 0,
    mode: int | bytes = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 1_000_000_000,
    link: bytes | str = b"",
    major: int | bytes = 0,
    minor: int | bytes = 0,
    prefix: bytes = b"",
    magic: bytes = USTAR,
    at: Mapping[int, bytes] | None = None,
    checksum: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """Return one header block; bytes are put in as they are, ``at`` last of all."""

    def number(value: int | bytes, width: int) -> bytes:
        return value if isinstance(value, bytes) else octal(value, width)

    block = bytearray(512)
    fields: list[tuple[int, int, bytes]] = [
        (0, 100, _bytes(name)[:100]),
        (100, 8, number(mode, 8)),
        (108, 8, number(uid, 8)),
        (116, 8, number(gid, 8)),
        (124, 12, number(size, 12)),
        (136, 12, number(mtime, 12)),
        (156, 1, bytes([kind])),
        (157, 100, _bytes(link)[:100]),
        (257, 8, magic[:8]),
    ]
    if magic:
        fields += [(329, 8, number(major, 8)), (337, 8, number(minor, 8)), (345, 155, prefix)]
    if magic == STAR:
        fields.append((508, 4, magic[8:]))
    for start, width, value in fields:
        assert len(value) <= width, (start, value)
        block[start : start + len(value)] = value
    for start, value in (at or {}).items():
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = (checksum or sum_unsigned)(bytes(block))
    return bytes(block)


def sum_unsigned(block: bytes) -> bytes:
    """Return the usual checksum."""
    return b"%06o\0 " % sum(block)


def sum_signed(block: bytes) -> bytes:
    """Return the checksum that old Sun tars wrote, over signed bytes."""
    return b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in block)


def padded(data: bytes) -> bytes:
    """Return data filled up to a block's end."""
    return data + bytes(-len(data) % 512)


def entry(name: bytes | str, kind: int = FILE, data: bytes = b"", **fields: Any) -> bytes:
    """Return header and data of an entry."""
    fields.setdefault("size", len(data))
    return header(name, kind, **fields) + padded(data)


def file(name: bytes | str, data: bytes = b"x", **fields: Any) -> bytes:
    """Return a regular file's entry."""
    return entry(name, FILE, data, **fields)


def directory(name: bytes | str, **fields: Any) -> bytes:
    """Return a directory's entry."""
    fields.setdefault("mode", 0o755)
    return entry(name, DIR, **fields)


def hard_link(name: bytes | str, target: bytes | str, **fields: Any) -> bytes:
    """Return a hard link's entry."""
    return entry(name, LINK, link=target, **fields)


def symlink(name: bytes | str, target: bytes | str, **fields: Any) -> bytes:
    """Return a symbolic link's entry."""
    fields.setdefault("mode", 0o777)
    return entry(name, SYMLINK, link=target, **fields)


def record(key: bytes | str, value: bytes | str) -> bytes:
    """Return one PAX record with its right length."""
    body = b" " + _bytes(key) + b"=" + _bytes(value) + b"\n"
    length = len(body)
    while length != len(b"%d" % length) + len(body):
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def pax(records: Mapping[Any, Any] | Sequence[tuple[Any, Any]], kind: bytes = b"x") -> bytes:
    """Return a PAX header ("g": a global one) to stand before an entry."""
    pairs = records.items() if isinstance(records, Mapping) else records
    return entry("pax", kind[0], b"".join(record(key, value) for key, value in pairs))


def xattrs(values: Mapping[str, bytes]) -> bytes:
    """Return a PAX header with extended attributes."""
    return pax({f"SCHILY.xattr.{key}": value for key, value in values.items()})


def long_name(name: bytes | str, kind: bytes = b"L") -> bytes:
    """Return GNU's long name ("K": long link name) to stand before an entry."""
    return entry("././@LongLink", kind[0], _bytes(name) + b"\0", magic=GNU)


def sparse_0(name: str, size: int, pieces: Sequence[tuple[int, bytes]], minor: int = 1) -> bytes:
    """Return a PAX sparse file of format 0.0 or 0.1."""
    records: list[tuple[str, str]] = [
        ("GNU.sparse.size", str(size)),
        ("GNU.sparse.numblocks", str(len(pieces))),
    ]
    if minor == 0:
        for offset, data in pieces:
            records.append(("GNU.sparse.offset", str(offset)))
            records.append(("GNU.sparse.numbytes", str(len(data))))
    else:
        flat = [str(number) for offset, data in pieces for number in (offset, len(data))]
        records += [("GNU.sparse.name", name), ("GNU.sparse.map", ",".join(flat))]
    data = b"".join(data for _, data in pieces)
    return pax(records) + file(f"GNUSparseFile.0/{name}" if minor else name, data)


def sparse_1(name: str, size: int, pieces: Sequence[tuple[int, bytes]]) -> bytes:
    """Return a PAX sparse file of format 1.0."""
    lines = [str(len(pieces))]
    lines += [str(number) for offset, data in pieces for number in (offset, len(data))]
    data = padded("".join(f"{line}\n" for line in lines).encode())
    data += b"".join(data for _, data in pieces)
    records = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size),
    }
    return pax(records) + file(f"GNUSparseFile.0/{name}", data)


def tar(*entries: bytes) -> bytes:
    """Return a whole archive."""
    return b"".join(entries) + END


def plain(data: bytes) -> bytes:
    """Return a layer as it is."""
    return data


def gzipped(data: bytes) -> bytes:
    """Return a layer as one gzip member."""
    return gzip.compress(data, 6, mtime=0)


def gzipped_in_members(data: bytes) -> bytes:
    """Return a layer as several gzip members, as pigz and stargz write it."""
    half = len(data) // 2
    return gzipped(data[:half]) + gzipped(b"") + gzipped(data[half:])


def zstd(data: bytes) -> bytes:
    """Return a layer as one zstd frame with a checksum."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def zstd_in_frames(data: bytes) -> bytes:
    """Return a layer as several zstd frames and a skippable one, as zstd:chunked writes it."""
    half = len(data) // 2
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    return zstd(data[:half]) + zstd(data[half:]) + skippable


def digest(data: bytes) -> str:
    """Return the digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


#: As Go names this machine's architecture.
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
OTHER_ARCHITECTURE = "arm64" if ARCHITECTURE == "amd64" else "amd64"
OCI, DOCKER = "application/vnd.oci.image", "application/vnd.docker"
MEDIA_TYPES: dict[tuple[str, Callable[[bytes], bytes]], str] = {
    (OCI, plain): f"{OCI}.layer.v1.tar",
    (OCI, gzipped): f"{OCI}.layer.v1.tar+gzip",
    (OCI, gzipped_in_members): f"{OCI}.layer.v1.tar+gzip",
    (OCI, zstd): f"{OCI}.layer.v1.tar+zstd",
    (OCI, zstd_in_frames): f"{OCI}.layer.v1.tar+zstd",
    (DOCKER, plain): f"{DOCKER}.image.rootfs.diff.tar",
    (DOCKER, gzipped): f"{DOCKER}.image.rootfs.diff.tar.gzip",
}


@dataclass
class Image:
    """An image to be made of layers; ``archive`` is what ``images/load`` takes."""

    name: str
    layers: Sequence[bytes]
    pack: Callable[[bytes], bytes] = gzipped
    style: str = OCI
    #: Wrap the manifest in an index with another platform and an attestation, both absent.
    index: bool = False
    diff_ids: list[str] = field(default_factory=list)
    blobs: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Pack the layers."""
        self.diff_ids = self.diff_ids or [digest(layer) for layer in self.layers]
        self.blobs = [self.pack(layer) for layer in self.layers]

    def archive(self) -> bytes:
        """Return an OCI layout with every blob, as a tar."""
        blobs: dict[str, bytes] = {}

        def put(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
            blobs[digest(data)] = data
            return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}

        def put_json(value: Any, media_type: str, **more: Any) -> dict[str, Any]:
            return put(json.dumps(value).encode(), media_type, **more)

        config = {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": {"Cmd": ["/bin/busybox", "true"]},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
        }
        media_type = MEDIA_TYPES[self.style, self.pack]
        oci = self.style == OCI
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json"
            if oci
            else f"{DOCKER}.distribution.manifest.v2+json",
            "config": put_json(
                config, f"{OCI}.config.v1+json" if oci else f"{DOCKER}.container.image.v1+json"
            ),
            "layers": [put(blob, media_type) for blob in self.blobs],
        }
        here = {"architecture": ARCHITECTURE, "os": "linux"}
        top = put_json(manifest, str(manifest["mediaType"]), platform=here)
        if self.index:
            top = put_json(self._index(top), f"{OCI}.index.v1+json")
        top["annotations"] = {"io.containerd.image.name": self.name}
        index = {"schemaVersion": 2, "manifests": [top]}
        files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
        files["index.json"] = json.dumps(index).encode()
        files |= {f"blobs/sha256/{name[7:]}": data for name, data in blobs.items()}
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, data in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return buffer.getvalue()

    def _index(self, manifest: dict[str, Any]) -> dict[str, Any]:
        absent = {
            "mediaType": f"{OCI}.manifest.v1+json",
            "digest": digest(self.name.encode()),
            "size": 100,
        }
        attestation = {
            "platform": {"architecture": "unknown", "os": "unknown"},
            "annotations": {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": manifest["digest"],
            },
        }
        other = absent | {"platform": {"architecture": OTHER_ARCHITECTURE, "os": "linux"}}
        return {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.index.v1+json",
            "manifests": [other, manifest, absent | attestation],
        }


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value
