"""Turns one layer blob into one sealed layer: an EROFS file with exactly the engine's tree.

Nothing is unpacked. The layer is read by the rules of containerd's applier (``layertree``), and
handed to ``mkfs.erofs`` as a tar stream in which everything is said (``canonical``): files while
they are read, the rest when all is known. Where a later entry changed or replaced a file, that was
too early, and the layer is read once more now that its tree is known. The same blob, the same
layers below where they matter, and the same ``mkfs.erofs`` give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from composeapps import canonical, tarstream
from composeapps.blobstream import CHUNK, Blob, ByteStream
from composeapps.config import SealSettings
from composeapps.erofs import Image
from composeapps.erofstool import Tool, check_room, check_tool
from composeapps.errors import IntegrityError, SealError
from composeapps.filetree import FileTree
from composeapps.layertree import Applier
from composeapps.rootpath import MISSING

__all__ = ["Scanned", "Sealed", "check_tool", "scan", "seal"]

#: Bytes; what a tree and zstd's window may take together, so that a whole process that seals stays
#: below 200 MB.
MEMORY_LIMIT = 152 * 1024 * 1024


@dataclass(frozen=True)
class Sealed:
    """A finished sealed layer."""

    #: False where it serves the same diff ID in any chain.
    chain_dependent: bool
    #: Of the EROFS file, and its bytes.
    digest: str
    size: int
    #: Bytes of all its files, and its number of names.
    unpacked: int
    entries: int


@dataclass(frozen=True)
class Scanned:
    """A layer that can be sealed: what it will be."""

    tree: FileTree
    chain_dependent: bool
    unpacked: int
    entries: int
    #: True where its files can only be written when all of it is known.
    rewrites: bool


def seal(
    open_blob: Callable[[], BinaryIO],
    diff_id: str,
    lower: Sequence[Path],
    output: Path,
    settings: SealSettings,
) -> Sealed:
    """Make a sealed layer of a layer blob.

    Args:
        open_blob: opens the blob, compressed or not, at its beginning; called once or twice.
        diff_id: what the uncompressed bytes have to be.
        lower: the sealed layers below, from the bottom up; empty for a chain's first layer.
        output: the file to write. The caller makes it durable; on an error it is gone.

    Raises:
        SealError: the layer cannot be made exactly as the engine would; names entry and reason.
        IntegrityError: blob or a layer below is damaged, or the diff ID is another's.
        SpaceError: there is no room for it.
        SettingsError: ``mkfs.erofs`` is missing or too old.
        ProcessError: ``mkfs.erofs`` failed.
    """
    check_tool()
    with _naming(diff_id):
        try:
            scanned = _make(open_blob, diff_id, lower, output, settings)
            return Sealed(
                chain_dependent=scanned.chain_dependent,
                digest=_digest(output),
                size=output.stat().st_size,
                unpacked=scanned.unpacked,
                entries=scanned.entries,
            )
        except BaseException:
            with suppress(FileNotFoundError):
                output.unlink()
            raise


def scan(
    open_blob: Callable[[], BinaryIO], diff_id: str, lower: Sequence[Path], settings: SealSettings
) -> Scanned:
    """Read a layer blob and work out its tree, without writing anything.

    Raises:
        SealError, IntegrityError: as ``seal``.
    """
    with _naming(diff_id):
        return _read(open_blob, diff_id, lower, settings, None)


def _make(
    open_blob: Callable[[], BinaryIO],
    diff_id: str,
    lower: Sequence[Path],
    output: Path,
    settings: SealSettings,
) -> Scanned:
    """Make the file: in one reading where that is enough, in two where it is not."""
    with Tool(diff_id, output, settings.compression) as tool:
        scanned = _read(open_blob, diff_id, lower, settings, tool)
        if not scanned.rewrites:
            canonical.write_rest(scanned.tree, tool.write)
            tool.finish()
            return scanned
    check_room(output, scanned.unpacked)
    with Tool(diff_id, output, settings.compression) as tool, open_blob() as file:
        stream = ByteStream(Blob(file).chunks())
        complete = canonical.write_files(scanned.tree, stream, tool.write)
        if not complete or stream.finish() != diff_id:
            raise IntegrityError("it changed while it was sealed")
        canonical.write_rest(scanned.tree, tool.write)
        tool.finish()
    return scanned


def _read(
    open_blob: Callable[[], BinaryIO],
    diff_id: str,
    lower: Sequence[Path],
    settings: SealSettings,
    tool: Tool | None,
) -> Scanned:
    """Read a whole blob; hand its files to a tool as long as none of them is changed again."""
    with ExitStack() as stack:
        below = [stack.enter_context(Image(path)) for path in reversed(lower)]
        blob = Blob(stack.enter_context(open_blob()))
        stream = ByteStream(_bounded(blob.chunks(), settings.layer_limit))
        applier = Applier(below, MEMORY_LIMIT - blob.window)
        refusal: SealError | None = None
        try:
            _apply_all(stream, applier, settings, tool)
        except SealError as error:
            refusal = error
        # A damaged blob makes the strangest entries: the digest comes first.
        digest = stream.finish()
    if digest != diff_id:
        raise IntegrityError(f"its bytes are those of {digest}")
    if refusal is not None:
        raise refusal
    totals = applier.tree.totals()
    return Scanned(applier.tree, applier.chain_dependent, *totals, applier.rewrites)


def _apply_all(
    stream: ByteStream, applier: Applier, settings: SealSettings, tool: Tool | None
) -> None:
    unpacked = 0
    for entries, member in enumerate(tarstream.members(stream), start=1):
        unpacked += member.size
        if entries > settings.entry_limit:
            raise SealError(
                f"it has more than {settings.entry_limit} entries (setting seal.entry_limit)"
            )
        if unpacked > settings.layer_limit:
            raise _too_large(settings.layer_limit)
        node = applier.apply(member)
        if tool is not None and node != MISSING and not applier.rewrites:
            # Where the archive ends inside the file, reading on says so.
            canonical.write_file(applier.tree, node, stream, tool.write)
    applier.finish()


@contextmanager
def _naming(diff_id: str) -> Iterator[None]:
    """Put the layer's name before what is wrong with it."""
    try:
        yield
    except (SealError, IntegrityError) as error:
        raise type(error)(f"layer {diff_id}: {error}") from error


def _bounded(chunks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise _too_large(limit)
        yield chunk


def _too_large(limit: int) -> SealError:
    return SealError(f"it unpacks to more than {limit} bytes (setting seal.layer_limit)")


def _digest(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return ByteStream(iter(lambda: file.read(CHUNK), b"")).finish()
