"""Blobs and sealed layers in plain directories (design: OCI image layout for the small things).

A store directory holds ``blobs/sha256/<hex>`` and ``layers/<name>.erofs``. A layer's name is
``<diff ID>.<digest>`` or, where its tree depends on the layers below it (it holds whiteouts or
directories that are only implied), ``<diff ID>.<chain ID>.<digest>``; the last part is the digest
of the file itself, so that one rename stores the bytes and what they have to be.
A final name means verified bytes (law L2).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from composeapps import durable, verity
from composeapps.digests import copy_verified, file_digest
from composeapps.errors import IntegrityError
from composeapps.oci import digest_of, hex_of

log = logging.getLogger(__name__)

SUFFIX = ".erofs"


@dataclass(frozen=True)
class SealedLayer:
    """One sealed layer file: what it is, and what its bytes have to be."""

    path: Path
    diff_id: str
    #: The chain it was sealed for; empty where it serves every chain.
    chain_id: str
    digest: str

    @property
    def name(self) -> str:
        """The file's name without its suffix; also the name of its mount point."""
        return self.path.name.removesuffix(SUFFIX)


def layer_name(diff_id: str, chain_id: str, digest: str) -> str:
    """Return the file name of a sealed layer; ``chain_id`` empty where it serves every chain."""
    return ".".join(hex_of(part) for part in (diff_id, chain_id, digest) if part) + SUFFIX


def parse_layer_name(path: Path) -> SealedLayer | None:
    """Return what a file name says, or None where it is not a sealed layer's name."""
    parts = path.name.removesuffix(SUFFIX).split(".")
    if not path.name.endswith(SUFFIX) or len(parts) not in (2, 3):
        return None
    if not all(_is_hex(part) for part in parts):
        return None
    chain = f"sha256:{parts[1]}" if len(parts) == 3 else ""
    return SealedLayer(path, f"sha256:{parts[0]}", chain, f"sha256:{parts[-1]}")


def _is_hex(name: str) -> bool:
    return len(name) == 64 and set(name) <= set("0123456789abcdef")


class Store:
    """One store directory; the factory store is one that is only read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        self.layers = root / "layers"

    def create(self) -> None:
        """Make the directories, and remove what an interrupted run left half done."""
        durable.make_dir(self.blobs)
        durable.make_dir(self.layers)
        for directory in (self.blobs, self.layers):
            durable.remove_temporaries(directory)

    def blob_path(self, digest: str) -> Path:
        """Return where a blob lies or would lie."""
        return self.blobs / hex_of(digest)

    def put_blob(self, data: bytes) -> str:
        """Store small content under its digest, durably; storing it again changes nothing."""
        digest = digest_of(data)
        path = self.blob_path(digest)
        try:
            held = path.read_bytes()
        except OSError:  # not there, or damaged: written anew either way
            held = None
        if held != data:
            durable.write_file(path, data)
        return digest

    def adopt_layer(self, file: Path, diff_id: str, chain_id: str, digest: str) -> SealedLayer:
        """Give a finished sealed file its final name, durably; the caller has verified it."""
        final = self.layers / layer_name(diff_id, chain_id, digest)
        durable.fsync_file(file)
        self._protect(file)
        durable.publish_path(file, final)
        return SealedLayer(final, diff_id, chain_id, digest)

    def take(self, source: Path, final: Path, digest: str) -> None:
        """Copy a file of another store, verified on the way, durably.

        Args:
            final: the name that it gets in this store.

        Raises:
            IntegrityError: it is not what its digest says, or cannot be read.
            OSError: it cannot be written.
        """
        temporary = final.with_name(f"{durable.TEMPORARY}{final.name}")
        try:
            with temporary.open("wb") as output:
                copy_verified(source, output, digest)
            durable.fsync_file(temporary)
            if final.parent == self.layers:
                self._protect(temporary)
            durable.publish_path(temporary, final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @staticmethod
    def _protect(file: Path) -> None:
        """Let the kernel check a layer's bytes, where it can, before it has its final name."""
        why = verity.enable(file)
        if why:
            log.debug("%s: %s", file, why)

    def all_layers(self) -> Iterator[SealedLayer]:
        """Yield every sealed layer of this store, by name."""
        if self.layers.is_dir():
            for path in sorted(self.layers.iterdir()):
                layer = parse_layer_name(path)
                if layer is not None:
                    yield layer

    def all_blobs(self) -> Iterator[str]:
        """Yield the digest of every blob of this store."""
        if self.blobs.is_dir():
            for path in sorted(self.blobs.iterdir()):
                if _is_hex(path.name):
                    yield f"sha256:{path.name}"

    def is_intact(self, digest: str) -> bool:
        """Say whether this store holds a blob with the right bytes; hashes it."""
        try:
            return file_digest(self.blob_path(digest)) == digest
        except OSError:  # not there, or damaged so that it cannot be read
            return False

    def find_layer(self, diff_id: str, chain_id: str) -> SealedLayer | None:
        """Return the sealed layer that serves a diff ID at the end of a chain."""
        if not self.layers.is_dir():
            return None
        prefix = f"{hex_of(diff_id)}."
        for name in sorted(os.listdir(self.layers)):
            if name.startswith(prefix):
                layer = parse_layer_name(self.layers / name)
                if layer is not None and layer.chain_id in ("", chain_id):
                    return layer
        return None


class Stores:
    """The factory store, looked at first, and the device's own."""

    def __init__(self, factory: Store, data: Store) -> None:
        self.factory = factory
        self.data = data
        self.all: Sequence[Store] = (factory, data)
        #: Files of the factory store that were found damaged; they cannot be removed.
        self.distrusted: set[str] = set()

    def find_blob(self, digest: str) -> Path | None:
        """Return the path of an intact copy of a blob; hashes the copies that there are."""
        for store in self.all:
            if store.is_intact(digest):
                return store.blob_path(digest)
        return None

    def read_blob(self, digest: str, limit: int) -> bytes:
        """Return a small blob's bytes, verified; a damaged copy is passed over for a good one.

        Args:
            limit: bytes; a larger file is not read.

        Raises:
            IntegrityError: no store holds the blob with the right bytes.
        """
        found = False
        for store in self.all:
            path = store.blob_path(digest)
            try:
                with path.open("rb") as file:
                    data = file.read(limit + 1)
            except FileNotFoundError:
                continue
            except OSError:  # an I/O error of the medium is damage too
                found = True
                continue
            found = True
            if len(data) <= limit and digest_of(data) == digest:
                return data
        state = "is damaged" if found else "is missing"
        raise IntegrityError(f"blob {digest} {state} in every local store")

    def find_layer(self, diff_id: str, chain_id: str) -> SealedLayer | None:
        """Return the sealed layer for a diff ID at the end of a chain, factory first."""
        for store in self.all:
            layer = store.find_layer(diff_id, chain_id)
            if layer is not None and str(layer.path) not in self.distrusted:
                return layer
        return None


def verify_layer(layer: SealedLayer) -> bool:
    """Hash a whole sealed layer; False where its bytes are wrong or cannot be read."""
    try:
        return file_digest(layer.path) == layer.digest
    except OSError:
        return False
