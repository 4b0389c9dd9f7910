"""One pass of python-tuf's client over metadata that is in memory: rules are its, IO is ours.

``tuf.ngclient`` keeps its files without fsync and asks a server for as many bytes as metadata
says. So it works on a scratch directory here, that nothing has to survive, through a fetcher
that has ceilings of its own; what comes out is returned, and ``trust`` keeps it durably.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any

from securesystemslib.exceptions import Error as SecuresystemslibError
from tuf.api import exceptions
from tuf.api.metadata import TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from composeapps.durable import TEMPORARY
from composeapps.errors import NotFoundError, SourceError, TrustError
from composeapps.release import LIMIT, target_path

if TYPE_CHECKING:
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

#: Bytes; an answer beyond them is not read, whatever signed metadata says its length is.
ROOT_LIMIT = 256 * 1024
TIMESTAMP_LIMIT = 16 * 1024
METADATA_LIMIT = 1024 * 1024
#: New root versions taken in one look; what was taken is kept, the next look goes on from there.
ROTATIONS = 128
#: Roles visited for one target: targets and the channel's own, with room for a nested one.
DELEGATIONS = 8
#: When the maker signed a timestamp; an additional field, which TUF allows (section 4.1).
CREATED = "x-composeapps-created"
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

_ROOT_FILE = re.compile(r"[0-9]+\.root\.json")
_HASH = re.compile(r"[0-9a-f]{32,128}")
_STRONG = frozenset({"sha256", "sha512"})
#: What tuf and securesystemslib let through on odd input, besides their own classes.
_LEAKS = (
    exceptions.RepositoryError,
    exceptions.DownloadError,
    SecuresystemslibError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)

Fetch = Callable[[str, int], bytes]


class ExpiredError(TrustError):
    """Metadata is past its expiry."""

    def __init__(self, message: str, timestamp_keys: tuple[str, ...]) -> None:
        super().__init__(message)
        #: Key IDs of the timestamp role in the newest trusted root.
        self.timestamp_keys = timestamp_keys


@dataclass(frozen=True)
class Held:
    """Metadata and release of one channel as they lie on a disk; nothing of it is trusted."""

    #: By version.
    roots: Mapping[int, bytes]
    #: By file name without version, like ``timestamp.json``.
    metadata: Mapping[str, bytes]
    release: bytes | None


@dataclass(frozen=True)
class Look:
    """What a pass has verified."""

    metadata: Mapping[str, bytes]
    release: bytes
    #: Key IDs of the role that signs the channel, and of the timestamp role; sorted.
    channel_keys: tuple[str, ...]
    timestamp_keys: tuple[str, ...]
    #: Seconds since 1970 at which the timestamp was signed; 0 where it does not say.
    created: int
    #: When each role's metadata expires.
    expires: Mapping[str, datetime]

    def judge(self, reference: datetime) -> None:
        """Judge expiry once more by another time; raises ExpiredError."""
        for role, expires in self.expires.items():
            if reference >= expires:
                raise ExpiredError(_expired(f"{role} is expired", reference), self.timestamp_keys)


@dataclass(frozen=True)
class Where:
    """What to look for and where: channel and base URLs, both with a slash at the end."""

    channel: str
    metadata_url: str
    targets_url: str


def look(
    root: bytes,
    held: Held,
    where: Where,
    fetch: Fetch,
    reference: datetime,
    *,
    roots: MutableMapping[int, bytes],
    scratch: Path | None = None,
) -> Look:
    """Run the TUF client workflow (specification, section 5) once.

    Args:
        root: the root that the image carries; everything chains to it.
        held: what is held locally; broken parts are fetched again.
        fetch: returns the bytes of a URL, at most the given number.
        reference: the time that expiry is judged by.
        roots: gets every root that was trusted, also when the look fails later on.
        scratch: where the scratch directory is made; None for the system's place.

    Raises:
        ExpiredError: metadata has expired by the reference time.
        TrustError: metadata or release does not chain to the root, or rolls back.
        SourceError: what ``fetch`` raises.
        OSError: the scratch directory cannot be written.
    """
    with TemporaryDirectory(prefix=TEMPORARY, dir=scratch) as name:
        directory = Path(name)
        target = directory / "release"
        _lay_out(directory, target, held)
        # tuf counts from the image's root; what is held must not use up what may be new.
        updater = _updater(root, directory, where, fetch, ROTATIONS + len(held.roots))
        trusted = _trusted(updater)
        # The public interface has no way to say what time it is.
        trusted.reference_time = reference
        first = trusted.root.version + 1
        try:
            updater.refresh()
            info = updater.get_targetinfo(target_path(where.channel))
            if info is None:
                raise TrustError(
                    f"{where.metadata_url} has no release of channel {where.channel}: check "
                    f"device.channel, or run `composeapps-publish release {where.channel} …`"
                )
            role_keys = _check_target(trusted, info, where.channel)
            if not updater.find_cached_target(info, str(target)):
                updater.download_target(info, str(target))
        except _LEAKS as error:
            raise _explain(error, where, trusted, reference) from error
        finally:
            for version in range(first, trusted.root.version + 1):
                file = directory / "root_history" / f"{version}.root.json"
                roots[version] = file.read_bytes()
        return _result(trusted, directory, target, where.channel, role_keys)


def _lay_out(directory: Path, target: Path, held: Held) -> None:
    history = directory / "root_history"
    history.mkdir()
    for version, data in held.roots.items():
        (history / f"{version}.root.json").write_bytes(data)
    for name, data in held.metadata.items():
        (directory / name).write_bytes(data)
    if held.release is not None:
        target.write_bytes(held.release)


def _updater(root: bytes, directory: Path, where: Where, fetch: Fetch, rotations: int) -> Updater:
    config = UpdaterConfig(
        max_root_rotations=rotations,
        max_delegations=DELEGATIONS,
        root_max_length=ROOT_LIMIT,
        timestamp_max_length=TIMESTAMP_LIMIT,
        snapshot_max_length=METADATA_LIMIT,
        targets_max_length=METADATA_LIMIT,
    )
    if not root:  # tuf 6 would take a cached root for it
        raise TrustError("the TUF root that the image carries is empty: build the image anew")
    try:
        return Updater(
            str(directory),
            where.metadata_url,
            target_base_url=where.targets_url,
            fetcher=_Fetcher(fetch),
            config=config,
            bootstrap=root,
        )
    except _LEAKS as error:
        raise TrustError(
            f"the TUF root that the image carries cannot be used ({_words(error)}): build the "
            "image with a root.json of the repository"
        ) from error


def _trusted(updater: Updater) -> TrustedMetadataSet:
    trusted: TrustedMetadataSet | None = getattr(updater, "_trusted_set", None)
    if trusted is None or not isinstance(getattr(trusted, "reference_time", None), datetime):
        raise TrustError("this version of python-tuf is not supported: install tuf 6 or 7")
    return trusted


class _Fetcher(FetcherInterface):
    """Gives tuf the bytes of our own fetch function, in bounds."""

    def __init__(self, fetch: Fetch) -> None:
        self._get = fetch

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self._get(url, METADATA_LIMIT)

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[Any]]:
        limit = min(max_length, METADATA_LIMIT)
        try:
            data = self._get(url, limit)
        except NotFoundError as error:
            if _ROOT_FILE.fullmatch(url.rpartition("/")[2]):  # how the newest root is known
                raise exceptions.DownloadHTTPError(str(error), 404) from error
            raise
        if len(data) > limit:
            raise SourceError(f"{url}: the answer is larger than {limit} bytes")
        yield BytesIO(data)


def _check_target(trusted: TrustedMetadataSet, info: TargetFile, channel: str) -> tuple[str, ...]:
    """Judge what is listed for the channel before it is fetched; return the role's key IDs."""
    path = target_path(channel)
    if info.length > LIMIT:
        raise TrustError(f"{path} is listed with {info.length} bytes, more than {LIMIT}")
    # tuf makes a URL of a hash, so it has to be one.
    if not _STRONG & info.hashes.keys() or not all(map(_HASH.fullmatch, info.hashes.values())):
        raise TrustError(f"{path} is listed without a sha256 or sha512 hash, or with an odd one")
    if trusted.targets.targets.get(path) is info:
        return _sorted(trusted.root.roles[Targets.type].keyids)
    delegations = trusted.targets.delegations
    role = (delegations.roles or {}).get(channel) if delegations is not None else None
    signed = trusted.get(channel)
    if role is None or not isinstance(signed, Targets) or signed.targets.get(path) is not info:
        raise TrustError(f"{path} is signed by a role other than {channel} and targets")
    return _sorted(role.keyids)


def _result(
    trusted: TrustedMetadataSet,
    directory: Path,
    target: Path,
    channel: str,
    channel_keys: tuple[str, ...],
) -> Look:
    roles = ["root", "timestamp", "snapshot", "targets"]
    if channel in trusted:
        roles.append(channel)
    return Look(
        {f"{role}.json": (directory / f"{role}.json").read_bytes() for role in roles[1:]},
        target.read_bytes(),
        channel_keys,
        _sorted(trusted.root.roles[Timestamp.type].keyids),
        _created(trusted.timestamp),
        {role: trusted[role].expires for role in roles},
    )


def _created(timestamp: Timestamp) -> int:
    value = timestamp.unrecognized_fields.get(CREATED)
    try:
        created = datetime.strptime(str(value), TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return 0
    return int(created.timestamp()) if created < timestamp.expires else 0


def _sorted(keyids: list[str]) -> tuple[str, ...]:
    return tuple(sorted(keyids))


def _expired(words: str, reference: datetime) -> str:
    return (
        f"{words}, judged at {reference.strftime(TIME_FORMAT)}: if that is about now, the maker "
        "has to sign it again (`composeapps-publish refresh`); if not, the device's clock is wrong"
    )


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # Names in metadata are anything; an escape sequence must not reach a terminal.
    return "".join(letter if letter.isprintable() else "?" for letter in text[:300])


def _explain(
    error: Exception, where: Where, trusted: TrustedMetadataSet, reference: datetime
) -> TrustError:
    """Say in one sentence what is wrong, and what a maker or an owner should do."""
    words = f"{where.metadata_url}: {_words(error)}"
    if isinstance(error, exceptions.ExpiredMetadataError):
        keys = _sorted(trusted.root.roles[Timestamp.type].keyids)
        return ExpiredError(_expired(words, reference), keys)
    if isinstance(error, exceptions.BadVersionNumberError):
        return TrustError(
            f"{words}: the server offers older metadata than this device has seen; it is stale, "
            "under attack, or was restored from a backup (see RECOVERY in the manual)"
        )
    if isinstance(error, exceptions.UnsignedMetadataError):
        return TrustError(
            f"{words}: its signatures do not chain to the image's root; the repository is not "
            "the one the image was made for, is half copied, or is under attack"
        )
    if isinstance(error, DeserializationError):
        return TrustError(f"{words}: what the server sent is not TUF metadata")
    if isinstance(error, exceptions.LengthOrHashMismatchError):
        return TrustError(f"{words}: the files at the server do not belong together")
    return TrustError(f"{words}: the repository's metadata cannot be used")
