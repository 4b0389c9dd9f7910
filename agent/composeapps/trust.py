"""Which release a channel has now, proved from the TUF root that the image carries.

**What is checked.** python-tuf's client does the workflow of the TUF specification (section 5).
On top of it, because servers are not trusted and python-tuf knows nothing of releases:

*One small request.* A look asks for ``timestamp.json`` with the entity tag of the one it holds.
Where that is unchanged, everything held is verified again from the root on, expiry included, with
no further request. New roots are asked for when the timestamp changes: composeapps-publish signs
a new timestamp with every new root. (A man in the middle who hides a root can only do so until
the timestamp he repeats expires.)

*Floor.* A release's version never goes below the highest one seen on its channel, and one version
never changes its content. The floor stands beside the key IDs of the role that signs the channel
and ends with them: **whoever pushed the version too far with a stolen key loses that when the
maker replaces the key** (TUF calls it recovery from a fast-forward attack).

*Time.* Expiry is judged by the latest of three times: the device's clock, the image's build time,
and the newest time at which a trusted timestamp says it was signed. The device's own clock is
never remembered, so a clock that was once far ahead does no harm after it is set right. The
signed time stands beside the key IDs of the timestamp role and ends with them: **a maker whose
clock was wrong, or whose timestamp key was stolen, replaces the timestamp key** and devices go
back to the build time. A time after the timestamp's own expiry is not believed.

*Running* needs none of this: ``load`` ignores expiry, and a release that was trusted once may run
for ever.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from composeapps import ratchet, trustcache, tufclient
from composeapps.errors import NotFoundError, SourceError, SpaceError, StateError, TrustError
from composeapps.oci import digest_of
from composeapps.ratchet import LAST, Floor, Memory, Ratchet, SignedTime
from composeapps.release import Release, check_channel
from composeapps.trustcache import TrustCache
from composeapps.tufclient import TIMESTAMP_LIMIT, ExpiredError, Fetch, Held, Look, Where

#: Roots newer than those of the held set that ``load`` goes back over.
ROOTS_BACK = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Response(Protocol):
    """An answer of the network seam."""

    @property
    def status(self) -> int:
        """200, or 304 where the entity tag still holds; anything else is raised, not returned."""

    @property
    def body(self) -> bytes: ...

    @property
    def etag(self) -> str: ...


#: URL, most bytes, entity tag or "". Raises NotFoundError where the server has no such file (403
#: or 404: some servers answer so for a missing one), and SourceError. It bounds the time and the
#: bytes of a whole look; here only the number of requests is bounded.
Get = Callable[[str, int, str], Response]


@dataclass(frozen=True)
class CheckResult:
    """The release that a channel has now."""

    release: Release
    #: Its bytes as they were signed, and their digest.
    raw: bytes
    #: It is another one than the last look found.
    changed: bool

    @property
    def digest(self) -> str:
        """The sha256 digest of the document."""
        return digest_of(self.raw)


class Trust:
    """Checks channels of one repository for one device."""

    def __init__(
        self,
        directory: Path,
        root: bytes,
        metadata_url: str,
        targets_url: str,
        get: Get,
        memory: Memory,
        *,
        build_time: int = 0,
        factory: Path | None = None,
        scratch: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Start from a root; nothing is read or asked yet.

        Args:
            directory: the device's own cache of trusted metadata.
            root: bytes of the root.json that the image carries.
            metadata_url: base URL of the metadata; with ``targets_url`` that of the releases.
            get: asks the server.
            memory: keeps floor and time.
            build_time: seconds since 1970 at which the image was built; 0 for unknown.
            factory: a cache in the image, used until there is one of the device's own.
            scratch: directory for short-lived files, best on a tmpfs; None for the system's.
            clock: seconds since 1970.
        """
        self._cache = TrustCache(directory)
        self._root = root
        self._metadata_url = metadata_url.rstrip("/") + "/"
        self._targets_url = targets_url.rstrip("/") + "/"
        self._get = get
        self._ratchet = Ratchet(memory)
        self._build_time = build_time
        self._factory = TrustCache(factory) if factory is not None else None
        self._scratch = scratch
        self._clock = clock

    def check(self, channel: str) -> CheckResult:
        """Ask for a channel's newest release; one small request where nothing is new.

        Raises:
            ConfigError: that cannot be a channel's name.
            TrustError: what the server gave does not chain to the root, has expired or is older
                than what was seen before; nothing but new roots was kept.
            SourceError: the server did not deliver.
            SpaceError: no room for the metadata.
            StateError: it cannot be written.
        """
        where = Where(check_channel(channel), self._metadata_url, self._targets_url)
        url = f"{self._metadata_url}timestamp.json"
        held = self._held(channel)
        tag = self._cache.etag(url)
        response = self._get(url, TIMESTAMP_LIMIT, tag)
        if response.status == 304 and not tag:
            raise SourceError(f"{url}: the server says it is unchanged, though nobody asked that")
        body = None if response.status == 304 else response.body
        roots: dict[int, bytes] = {}
        with self._disk():
            try:
                look = self._look(where, held, body, roots)
            finally:
                self._cache.add_roots(roots)
            release = _parse(look, where)
            floor = Floor.of(release, look.release, look.channel_keys)
            ratchet.judge(channel, floor, self._floor(channel, held, where))
            self._ratchet.set_floor(channel, floor)
            self._cache.replace(channel, look.metadata, look.release)
            self._ratchet.see_time(SignedTime(look.created, look.timestamp_keys))
            self._cache.set_etag(url, response.etag)
        return CheckResult(release, look.release, look.release != held.release)

    def load(self, channel: str) -> CheckResult:
        """Return the release that was trusted last, with no request; expiry does not count.

        The device's own cache comes first, then the factory's.

        Raises:
            TrustError: none of them holds a release that chains to the image's root.
        """
        where = Where(check_channel(channel), self._metadata_url, self._targets_url)
        reason = "it was never checked"
        for cache in filter(None, (self._cache, self._factory)):
            held = cache.read(channel)
            if held.release is None:
                continue
            try:
                with self._disk():
                    look = self._look_back(held, where)
                release = _parse(look, where)
            except (TrustError, SourceError) as error:
                reason = str(error)
                continue
            return CheckResult(release, look.release, changed=False)
        raise TrustError(f"no trusted release of channel {channel} is held ({reason}): check it")

    def _look_back(self, held: Held, where: Where) -> Look:
        """Verify a set by the newest root, else by those before it.

        A look that failed has left newer roots than the set was trusted by.
        """
        versions = sorted(held.roots)
        for count in range(len(versions), max(0, len(versions) - ROOTS_BACK), -1):
            roots = {version: held.roots[version] for version in versions[:count]}
            older = replace(held, roots=roots)
            try:
                return self._pass(older, where, _offline(older, where), _EPOCH, {})
            except (TrustError, SourceError):
                continue
        older = replace(held, roots={})
        return self._pass(older, where, _offline(older, where), _EPOCH, {})

    def export(self, channel: str, directory: Path) -> CheckResult:
        """Write the trusted release with its metadata as a cache for a factory image.

        Raises:
            TrustError: the device's own cache holds no release that chains to the root.
        """
        where = Where(check_channel(channel), self._metadata_url, self._targets_url)
        held = self._cache.read(channel)
        roots: dict[int, bytes] = {}
        with self._disk():
            look = self._pass(held, where, _offline(held, where), _EPOCH, roots)
            release = _parse(look, where)
            trustcache.export(directory, channel, roots, look.metadata, look.release)
        return CheckResult(release, look.release, changed=False)

    def _held(self, channel: str) -> Held:
        """What is held, the factory's set where the device has none of its own."""
        own = self._cache.read(channel)
        if self._factory is None:
            return own
        factory = self._factory.read(channel)
        roots = {**factory.roots, **own.roots}
        return replace(own if own.metadata else factory, roots=roots)

    def _look(self, where: Where, held: Held, body: bytes | None, roots: dict[int, bytes]) -> Look:
        """Verify what is held where the timestamp is unchanged, fetch the rest where not."""
        if body is None or body == held.metadata.get("timestamp.json"):
            try:
                return self._judge(where, held, _offline(held, where), roots)
            except (TrustError, SourceError):
                pass  # broken or expired: the server may have what mends it
        return self._judge(where, held, self._online(where, body), roots)

    def _judge(self, where: Where, held: Held, fetch: Fetch, roots: dict[int, bytes]) -> Look:
        """Run a pass with the best time known before, judge expiry by the best known after it."""
        sure = min(max(self._build_time, int(self._clock()), 0), LAST)
        signed = self._ratchet.time()
        used = max(sure, signed.seconds)
        try:
            look = self._pass(held, where, fetch, _date(used), roots)
        except ExpiredError as error:
            if signed.seconds <= sure or error.timestamp_keys == signed.keys:
                raise
            used = sure  # the key that vouched for the remembered time is no longer trusted
            held = replace(held, roots={**held.roots, **roots})
            look = self._pass(held, where, fetch, _date(used), roots)
        look.judge(_date(max(used, look.created)))
        return look

    def _pass(
        self,
        held: Held,
        where: Where,
        fetch: Fetch,
        reference: datetime,
        roots: dict[int, bytes],
    ) -> Look:
        return tufclient.look(
            self._root, held, where, fetch, reference, roots=roots, scratch=self._scratch
        )

    def _online(self, where: Where, timestamp: bytes | None) -> Fetch:
        """Return a fetch that asks the server; a timestamp that came already is not asked again."""

        def fetch(url: str, limit: int) -> bytes:
            if timestamp is not None and url == f"{where.metadata_url}timestamp.json":
                return timestamp
            response = self._get(url, limit, "")
            if response.status == 304:
                raise SourceError(f"{url}: the server says it is unchanged, though nobody asked")
            return response.body

        return fetch

    def _floor(self, channel: str, held: Held, where: Where) -> Floor | None:
        """The remembered floor, else the one of the held set: what the factory brought."""
        floor = self._ratchet.floor(channel)
        if floor is not None or held.release is None:
            return floor
        try:
            look = self._pass(held, where, _offline(held, where), _EPOCH, {})
            return Floor.of(_parse(look, where), look.release, look.channel_keys)
        except (TrustError, SourceError):
            return None

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            message = f"trusted metadata cannot be written ({error.filename}: {reason})"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise SpaceError(f"{message}: make room") from error
            raise StateError(f"{message}: is the file system mounted and writable?") from error


def _offline(held: Held, where: Where) -> Fetch:
    """Return a fetch that knows what is held, and no newer root."""
    timestamp = held.metadata.get("timestamp.json")

    def fetch(url: str, limit: int) -> bytes:
        if timestamp is not None and url == f"{where.metadata_url}timestamp.json":
            return timestamp
        raise NotFoundError(f"{url} is not held locally")

    return fetch


def _parse(look: Look, where: Where) -> Release:
    release = Release.parse(look.release, f"the release of channel {where.channel}")
    if release.channel != where.channel:
        raise TrustError(
            f"the release served for channel {where.channel} is one for channel "
            f"{release.channel}: the maker has to publish it again"
        )
    return release


def _date(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
