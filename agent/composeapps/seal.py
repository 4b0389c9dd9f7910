"""Turns one layer blob into one sealed layer: an EROFS file with exactly the engine's tree.

The blob is read twice and nothing is unpacked. The first reading checks the diff ID and works out
the tree that containerd's applier would have made (``layertree``); the second one hands that tree
to ``mkfs.erofs`` as a tar stream in which everything is said (``canonical``). The same blob, the
same layers below where they matter, and the same ``mkfs.erofs`` give the same bytes.
"""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, BinaryIO

from composeapps import canonical, process, tarstream
from composeapps.blobstream import CHUNK, Blob, ByteStream
from composeapps.config import SealSettings
from composeapps.erofs import Image
from composeapps.errors import ConfigError, IntegrityError, SealError, SpaceError
from composeapps.filetree import FileTree
from composeapps.layertree import Applier
from composeapps.oci import hex_of

TOOL = "mkfs.erofs"
#: 1.7 has neither --sort nor --mkfs-time and loses the times; 1.8.2 to 1.8.4 cut long names.
TOOL_VERSION = (1, 8, 5)
#: Seconds until it has said its version; it does nothing else then.
TOOL_TIMEOUT = 60.0
#: Bytes; what a tree and zstd's window may take together, so that a whole process that seals stays
#: below 200 MB.
MEMORY_LIMIT = 152 * 1024 * 1024
#: Bytes; mkfs.erofs before 1.9 does not notice every write that failed for want of room. Less
#: room than this, at any moment, is an error.
ROOM = 16 * 1024 * 1024
ROOM_EVERY = 8 * 1024 * 1024


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


def seal(
    open_blob: Callable[[], BinaryIO],
    diff_id: str,
    lower: Sequence[Path],
    output: Path,
    settings: SealSettings,
) -> Sealed:
    """Make a sealed layer of a layer blob.

    Args:
        open_blob: opens the blob, compressed or not, at its beginning; called twice.
        diff_id: what the uncompressed bytes have to be.
        lower: the sealed layers below, from the bottom up; empty for a chain's first layer.
        output: the file to write. The caller makes it durable; on an error it is gone.

    Raises:
        SealError: the layer cannot be made exactly as the engine would; names entry and reason.
        IntegrityError: blob or a layer below is damaged, or the diff ID is another's.
        SpaceError: there is no room for it.
        ConfigError: ``mkfs.erofs`` is missing or too old.
        ProcessError: ``mkfs.erofs`` failed.
    """
    check_tool()
    scanned = scan(open_blob, diff_id, lower, settings)
    with _naming(diff_id):
        try:
            _make(open_blob, diff_id, scanned, output, settings)
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
    with _naming(diff_id), ExitStack() as stack:
        below = [stack.enter_context(Image(path)) for path in reversed(lower)]
        blob = Blob(stack.enter_context(open_blob()))
        stream = ByteStream(_bounded(blob.chunks(), settings.layer_limit))
        applier = Applier(below, MEMORY_LIMIT - blob.window)
        refusal: SealError | None = None
        try:
            _apply_all(stream, applier, settings)
        except SealError as error:
            refusal = error
        # A damaged blob makes the strangest entries: the digest comes first.
        digest = stream.finish()
        if digest != diff_id:
            raise IntegrityError(f"its bytes are those of {digest}")
        if refusal is not None:
            raise refusal
        return Scanned(applier.tree, applier.chain_dependent, *applier.tree.totals())


@lru_cache(maxsize=1)
def check_tool() -> str:
    """Return the version of ``mkfs.erofs``.

    Raises:
        ConfigError: it is missing or too old.
    """
    wanted = f"install erofs-utils {'.'.join(str(number) for number in TOOL_VERSION)} or newer"
    try:
        output = process.run([TOOL, "-V"], timeout=TOOL_TIMEOUT).decode("utf-8", "replace")
    except process.ProcessError as error:
        if error.stderr:  # it runs, and is so old that it does not know -V
            raise ConfigError(f"{TOOL} is too old: {wanted}") from error
        raise ConfigError(f"{TOOL} {error.reason}: {wanted}") from error
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", output)
    numbers = tuple(int(number or 0) for number in found.groups()) if found else (0,)
    if found is None or numbers < TOOL_VERSION:
        raise ConfigError(f"{TOOL} is too old ({output.strip()[:60]}): {wanted}")
    return found.group()


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
            raise SealError(f"it unpacks to more than {limit} bytes (setting seal.layer_limit)")
        yield chunk


def _digest(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return ByteStream(iter(lambda: file.read(CHUNK), b"")).finish()


def _apply_all(stream: ByteStream, applier: Applier, settings: SealSettings) -> None:
    unpacked = 0
    for entries, member in enumerate(tarstream.members(stream), start=1):
        unpacked += member.size
        if entries > settings.entry_limit:
            raise SealError(
                f"it has more than {settings.entry_limit} entries (setting seal.entry_limit)"
            )
        if unpacked > settings.layer_limit:
            raise SealError(
                f"it unpacks to more than {settings.layer_limit} bytes (setting seal.layer_limit)"
            )
        applier.apply(member)
    applier.finish()


def _command(diff_id: str, output: Path, compression: str) -> list[str]:
    command = [TOOL, "--quiet", "--tar=f", "--sort=none", "-T0", "--mkfs-time"]
    command += ["-U", str(uuid.UUID(hex=hex_of(diff_id)[:32]))]
    # Without compression, data in blocks of its own is written once; with it, that would only
    # cost a block for every small file.
    command.append("-Enoinline_data" if compression == "none" else f"-z{compression}")
    return [*command, str(output)]


def _make(
    open_blob: Callable[[], BinaryIO],
    diff_id: str,
    scanned: Scanned,
    output: Path,
    settings: SealSettings,
) -> None:
    """Run mkfs.erofs on the canonical stream; the output file is complete when this returns."""
    _check_room(output, scanned.unpacked)
    argv = _command(diff_id, output, settings.compression)
    with open_blob() as file, tempfile.TemporaryFile() as messages:
        stream = ByteStream(Blob(file).chunks())
        tool = process.start(
            argv,
            stdin=process.PIPE,
            stdout=process.DEVNULL,
            stderr=messages,
            # mkfs.erofs before 1.9 runs for ever where its input ends too early.
            die_with_parent=True,
            env={"TMPDIR": str(output.parent)},
        )
        try:
            assert tool.stdin is not None
            with suppress(BrokenPipeError):
                with tool.stdin as pipe:
                    canonical.write_tree(scanned.tree, stream, _Feed(pipe, output).write)
                if stream.finish() != diff_id:
                    raise IntegrityError("it changed while it was sealed")
            code = tool.wait()
        finally:
            if tool.poll() is None:
                tool.kill()
                tool.wait()
        if code != 0:
            _raise_failure(argv, code, messages, output)
    _check_room(output, 0)


class _Feed:
    """Writes to mkfs.erofs and looks from time to time whether there is still room."""

    def __init__(self, pipe: IO[bytes], output: Path) -> None:
        self._pipe = pipe
        self._output = output
        self._since = 0

    def write(self, data: bytes) -> None:
        """Write some bytes; raises SpaceError where the file system is nearly full."""
        self._pipe.write(data)
        self._since += len(data)
        if self._since > ROOM_EVERY:
            self._since = 0
            _check_room(self._output, 0)


def _check_room(output: Path, needed: int) -> None:
    status = os.statvfs(output.parent)
    free = status.f_bavail * status.f_frsize
    if free < needed + ROOM:
        raise SpaceError(
            f"sealing needs {needed + ROOM} bytes in {output.parent}, and {free} are free"
        )


def _raise_failure(argv: list[str], code: int, messages: IO[bytes], output: Path) -> None:
    _check_room(output, 0)
    messages.seek(0)
    said = messages.read(64 * 1024).decode("utf-8", "replace")
    if "No space left" in said or "quota exceeded" in said:
        raise SpaceError(f"there is no room for a sealed layer in {output.parent}")
    raise process.ProcessError(argv, f"ended with {code}", said)
