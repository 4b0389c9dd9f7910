"""The uncompressed bytes of a layer blob, in order and in bounded memory.

Compression is told from the first bytes, never from a media type, as containerd's
``pkg/archive/compression`` does: gzip (RFC 1952, any number of members), zstd (RFC 8878, any
number of frames), or none.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from composeapps.errors import IntegrityError, SealError

#: Bytes read at once, and bytes handed on at once at the most.
PIECE = 256 * 1024
CHUNK = 1024 * 1024
#: Bytes; what ``zstd -d`` takes without being asked. A larger window breaks the memory bound.
WINDOW_LIMIT = 128 * 1024 * 1024
#: Bytes; what every zstd frame may use, whatever the first one says.
WINDOW_USUAL = 8 * 1024 * 1024
#: Bytes; a zstd frame header is no longer.
HEAD = 18
GZIP = b"\x1f\x8b\x08"
ZSTD = b"\x28\xb5\x2f\xfd"
#: zlib's flag for one gzip member with header and trailer.
GZIP_MEMBER = 16 + zlib.MAX_WBITS


class Blob:
    """A layer blob being read from its beginning to its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._head = _read_exactly(file, HEAD)
        is_zstd = self._head.startswith(ZSTD) or _is_skippable(self._head)
        #: Bytes that zstd may keep in memory at the most; 0 where the blob is not zstd.
        self.window = _window(self._head) if is_zstd else 0

    def chunks(self) -> Iterator[bytes]:
        """Yield the uncompressed bytes, at most CHUNK at once.

        Raises:
            IntegrityError: the compressed stream is damaged or cut off.
            SealError: it needs a larger window than this agent gives it.
        """
        if self._head.startswith(GZIP):
            return _gunzip(self._pieces())
        if self.window:
            return _unzstd(_Reader(self._pieces()), self.window)
        return self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        if self._head:
            yield self._head
        while piece := self._file.read(PIECE):
            yield piece


def _read_exactly(file: BinaryIO, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := file.read(count - len(data))):
        data += more
    return data


def _is_skippable(head: bytes) -> bool:
    magic = int.from_bytes(head[:4], "little")
    return len(head) >= 8 and magic & 0xFFFFFFF0 == 0x184D2A50


def _window(head: bytes) -> int:
    """Return the window that the frames of a blob get, from what the first one asks for.

    Raises:
        SealError: it asks for more than WINDOW_LIMIT.
    """
    import zstandard

    try:
        asked = 0 if _is_skippable(head) else zstandard.get_frame_parameters(head).window_size
    except zstandard.ZstdError as error:
        raise IntegrityError(f"its zstd stream is damaged ({error})") from error
    if asked > WINDOW_LIMIT:
        raise SealError(
            f"its zstd window is larger than {WINDOW_LIMIT // 2**20} MiB; compress it with a "
            "smaller one (zstd without --long)"
        )
    return max(asked, WINDOW_USUAL)


def _gunzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(GZIP_MEMBER)
    started = False
    try:
        for piece in pieces:
            while piece:
                if member.eof:
                    member = zlib.decompressobj(GZIP_MEMBER)
                chunk = member.decompress(piece, CHUNK)
                piece = member.unused_data if member.eof else member.unconsumed_tail
                started = True
                if chunk:
                    yield chunk
        while started and not member.eof and (chunk := member.decompress(b"", CHUNK)):
            yield chunk
    except zlib.error as error:
        raise IntegrityError(f"its gzip stream is damaged ({error})") from error
    if not member.eof:
        raise IntegrityError("its gzip stream is cut off")


class _Reader:
    """A file's ``read`` over pieces; may give less than asked for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        piece = self._rest or next(self._pieces, b"")
        if size < 0:
            size = len(piece)
        self._rest = piece[size:]
        return piece[:size]


def _unzstd(source: _Reader, window: int) -> Iterator[bytes]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=window)
    # A stream that is cut off just ends here, and is then told by its diff ID.
    reader = decompressor.stream_reader(
        cast(BinaryIO, source), read_size=PIECE, read_across_frames=True
    )
    try:
        while chunk := reader.read(CHUNK):
            yield chunk
    except zstandard.ZstdError as error:
        if "memory" in str(error):
            raise SealError(
                f"a later zstd frame has a window larger than {window // 2**20} MiB; compress the "
                "layer with one setting throughout"
            ) from error
        raise IntegrityError(f"its zstd stream is damaged ({error})") from error


class ByteStream:
    """Uncompressed bytes with a position: exact reads, cheap skips, and a hash of all of it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = b""
        self._at = 0
        self._before = 0
        self._hash = hashlib.sha256()
        self._error: IntegrityError | SealError | None = None

    @property
    def position(self) -> int:
        """Bytes read or skipped so far."""
        return self._before + self._at

    def _more(self) -> bool:
        if self._error is not None:
            raise self._error
        try:
            chunk = next(self._chunks, None)
        except (IntegrityError, SealError) as error:
            # It would look like an ordinary end to whoever asks again.
            self._error = error
            raise
        if chunk is None:
            return False
        self._before += len(self._buffer)
        self._buffer = chunk
        self._at = 0
        self._hash.update(chunk)
        return True

    def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes, fewer only where the stream ends."""
        end = self._at + count
        if end <= len(self._buffer):
            data = self._buffer[self._at : end]
            self._at = end
            return data
        parts: list[bytes] = []
        self.copy(count, parts.append)
        return b"".join(parts)

    def copy(self, count: int, write: Callable[[bytes], object]) -> int:
        """Hand the next ``count`` bytes to ``write`` in pieces; return how many there were."""
        left = count
        while left:
            available = len(self._buffer) - self._at
            if available == 0:
                if not self._more():
                    break
                continue
            take = min(available, left)
            if take == len(self._buffer):
                write(self._buffer)
            else:
                write(self._buffer[self._at : self._at + take])
            self._at += take
            left -= take
        return count - left

    def skip(self, count: int) -> int:
        """Pass over ``count`` bytes; return how many there were."""
        left = count
        while left:
            available = len(self._buffer) - self._at
            if available == 0:
                if not self._more():
                    break
                continue
            take = min(available, left)
            self._at += take
            left -= take
        return count - left

    def finish(self) -> str:
        """Read what is left and return the digest of the whole stream."""
        while self._more():
            pass
        self._at = len(self._buffer)
        return f"sha256:{self._hash.hexdigest()}"
