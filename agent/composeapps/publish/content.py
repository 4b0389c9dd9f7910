"""Where a publisher reads content from: registries, or an OCI image layout that a builder wrote.

Layouts are made by ``docker buildx build -o type=oci``, ``docker save``, skopeo and others; a tar
of one is unpacked first. Images in them are found by the names that these programs write.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from composeapps.config import Settings
from composeapps.digests import CHUNK, file_digest
from composeapps.errors import ConfigError, IntegrityError
from composeapps.images import Kind
from composeapps.oci import (
    MANIFEST_LIMIT,
    Descriptor,
    Reference,
    hex_of,
    load_json,
    parse_digest,
    parse_index,
)
from composeapps.source import Source

#: Annotations of an index entry that hold an image's name, the fuller one first.
NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
DEFAULT_TAG = "latest"
#: Bytes; a person does not wait for less.
_WORTH_SAYING = 1024 * 1024
#: Called with one line about what is being done.
Say = Callable[[str], None]


class Content(Protocol):
    """Images and artifacts by digest; what is read needs no trust."""

    def resolve(self, reference: Reference) -> str:
        """Return the digest that a tag names now; raises SourceError or ConfigError."""

    def read(self, reference: Reference, digest: str, limit: int, kind: Kind) -> bytes:
        """Be an ``images.Read``; raises SourceError or IntegrityError."""

    @contextmanager
    def file(self, reference: Reference, blob: Descriptor) -> Iterator[Path]:
        """Give a verified blob of any size as a file; raises SourceError or IntegrityError."""


class RegistryContent:
    """Content from registries and mirrors, as the settings say to reach them."""

    def __init__(self, settings: Settings, scratch: Path, say: Say) -> None:
        """Use registries.

        Args:
            scratch: directory for blobs while they are used.
        """
        self._source = Source(settings)
        self._scratch = scratch
        self._say = say

    def resolve(self, reference: Reference) -> str:
        """See ``Content``; a reference without tag means ``latest``, as everywhere."""
        return self._source.resolve_tag(with_tag(reference)).digest

    def read(self, reference: Reference, digest: str, limit: int, kind: Kind) -> bytes:
        """See ``Content``."""
        return self._source.read(reference, digest, limit, kind=kind)

    @contextmanager
    def file(self, reference: Reference, blob: Descriptor) -> Iterator[Path]:
        """See ``Content``; the file is gone afterwards."""
        if blob.size >= _WORTH_SAYING:
            self._say(f"downloading {short(blob.digest)} of {reference.name}, {mib(blob.size)}")
        with tempfile.TemporaryDirectory(dir=self._scratch) as directory:
            yield self._source.download(reference, blob, Path(directory))


class LayoutContent:
    """Content of one OCI image layout in a directory."""

    def __init__(self, directory: Path) -> None:
        """Read which images a layout has; raises ConfigError where it is none."""
        self._directory = directory
        path = directory / "index.json"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{directory} is no OCI image layout: {error.strerror}") from error
        self._named: dict[str, set[str]] = {}
        for entry in parse_index(data, str(path)):
            for name in filter(None, map(entry.annotations.get, NAMES)):
                self._named.setdefault(_full_name(name), set()).add(entry.digest)

    def resolve(self, reference: Reference) -> str:
        """See ``Content``."""
        name = str(with_tag(reference))
        # Some builders write only the tag.
        digests = self._named.get(name) or self._named.get(with_tag(reference).tag) or set()
        if len(digests) != 1:
            known = ", ".join(sorted(self._named)) or "none with a name"
            problem = "has no image" if not digests else "has more than one image"
            raise ConfigError(f"{self._directory} {problem} {reference}; it has {known}")
        return next(iter(digests))

    def read(self, reference: Reference, digest: str, limit: int, kind: Kind) -> bytes:
        """See ``Content``."""
        path = self._path(reference, digest)
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise IntegrityError(f"{path} is larger than {limit} bytes")
        return data

    @contextmanager
    def file(self, reference: Reference, blob: Descriptor) -> Iterator[Path]:
        """See ``Content``."""
        path = self._path(reference, blob.digest)
        if path.stat().st_size != blob.size or file_digest(path) != blob.digest:
            raise IntegrityError(f"{path} is damaged: make the layout again")
        yield path

    def _path(self, reference: Reference, digest: str) -> Path:
        path = self._directory / "blobs" / "sha256" / hex_of(digest)
        if not path.is_file():
            raise ConfigError(
                f"{self._directory} lacks {digest} of {reference}: make it again, with all the "
                "platforms that are published"
            )
        return path


@contextmanager
def open_layout(path: Path, scratch: Path) -> Iterator[LayoutContent]:
    """Give the content of a layout directory, or of a tar of one.

    Args:
        scratch: directory that a tar is unpacked in.

    Raises:
        ConfigError: it is neither.
    """
    if path.is_dir():
        yield LayoutContent(path)
        return
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        _unpack(path, Path(name))
        yield LayoutContent(Path(name))


def _unpack(archive: Path, directory: Path) -> None:
    """Unpack index and blobs of a layout's tar, and nothing else that it may hold."""
    (directory / "blobs" / "sha256").mkdir(parents=True)
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                name = os.path.normpath(member.name)
                if not member.isreg() or not _belongs(name):
                    continue
                source = tar.extractfile(member)
                assert source is not None
                with source, (directory / name).open("wb") as target:
                    while data := source.read(CHUNK):
                        target.write(data)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise ConfigError(f"{archive} is no tar of an OCI image layout: {error}") from error


def _belongs(name: str) -> bool:
    if name == "index.json":
        return True
    folder, _, digest = name.rpartition("/")
    try:
        return folder == "blobs/sha256" and bool(parse_digest(f"sha256:{digest}"))
    except ConfigError:
        return False


def _full_name(name: str) -> str:
    """Return a name as references are written in full; a bare tag or what is no name as it is."""
    if not {"/", ":"} & set(name):
        return name
    try:
        return str(with_tag(Reference.parse(name)))
    except ConfigError:
        return name


def with_tag(reference: Reference) -> Reference:
    """Return a reference without digest and with a tag."""
    return Reference(reference.registry, reference.repository, reference.tag or DEFAULT_TAG)


def read_document(content: Content, reference: Reference) -> bytes:
    """Return the manifest that a pinned reference names, verified to be JSON."""
    data = content.read(reference, reference.digest, MANIFEST_LIMIT, "manifest")
    load_json(data, str(reference))
    return data


def short(digest: str) -> str:
    """Return the first digits of a digest, for a person."""
    return digest[:19]


def mib(size: int) -> str:
    """Return a size for a person."""
    return f"{size / 1024**2:.1f} MiB"
