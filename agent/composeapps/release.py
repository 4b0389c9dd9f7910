"""The release document: the signed set of app digests that a device should run.

A release is JSON, the TUF target file ``<channel>/release.json``; ``schema/release.schema.json``
says the same in JSON Schema. Pure values, no IO.

A maker's tool reads it strictly: an unknown field is a typo. A device ignores unknown fields, so
that an older agent lives with a newer maker; what an agent must not ignore raises ``schema``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from composeapps.errors import ComposeAppsError, ConfigError, TrustError
from composeapps.oci import Platform, Reference

#: The newest document layout this agent knows.
SCHEMA = 1
#: Bytes, apps, and platforms of one app.
LIMIT = 1024 * 1024
APPS = 100
PLATFORMS = 32
#: Below this every JSON parser keeps integers exact (RFC 8259, section 6).
VERSION_LIMIT = 2**53
#: Seconds; the longest a gate may take.
GATE_LIMIT = 86_400
#: File name of a release below its channel.
NAME = "release.json"

_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
#: Names that TUF's top-level metadata uses; a channel's own metadata must not collide with them.
_TUF_ROLES = frozenset({"root", "targets", "snapshot", "timestamp"})


@dataclass(frozen=True)
class Size:
    """Bytes that an app costs on one platform when a device holds nothing of it yet."""

    download: int
    flash: int


@dataclass(frozen=True)
class App:
    """One app: its artifact as ``registry/repository@sha256:…``, and sizes per platform."""

    artifact: str
    sizes: Mapping[str, Size] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """Which share of the devices takes the release."""

    percent: int = 100
    #: Devices are drawn by this; empty means by the apps, so that a release with the same apps
    #: and a larger share takes the same devices and more.
    seed: str = ""


@dataclass(frozen=True)
class Gates:
    """Limits of the health gate in seconds; None leaves it to the device's settings."""

    health_timeout: int | None = None
    settle: int | None = None


@dataclass(frozen=True)
class Release:
    """A release document."""

    channel: str
    version: int
    apps: Mapping[str, App]
    rollout: Rollout = Rollout()
    gates: Gates = Gates()

    @classmethod
    def parse(cls, data: bytes, what: str, *, strict: bool = False) -> Release:
        """Read a release document.

        Args:
            data: its bytes.
            what: how an error names it.
            strict: the maker's reading: an unknown field is an error, errors are ConfigError.

        Raises:
            TrustError: it is not a release this agent can use (not strict).
            ConfigError: the same, strict.
        """
        return _Reader(what, strict).release(data)

    def to_bytes(self) -> bytes:
        """Return the canonical document: sorted names, one line end at the end."""
        value: dict[str, Any] = {
            "schema": SCHEMA,
            "channel": self.channel,
            "version": self.version,
            "apps": _apps(self.apps),
        }
        if self.rollout != Rollout():
            value["rollout"] = {"percent": self.rollout.percent}
            if self.rollout.seed:
                value["rollout"]["seed"] = self.rollout.seed
        gates = {name: limit for name, limit in vars(self.gates).items() if limit is not None}
        if gates:
            value["gates"] = gates
        return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"

    @property
    def target(self) -> str:
        """The TUF target path of the release."""
        return target_path(self.channel)


def target_path(channel: str) -> str:
    """Return the TUF target path of a channel's release."""
    return f"{channel}/{NAME}"


def check_channel(name: str) -> str:
    """Return a channel's name as it is; raises ConfigError where it cannot be one."""
    if not _PROJECT.fullmatch(name) or name in _TUF_ROLES:
        raise ConfigError(
            f"{name[:100]!r} cannot be a channel: use 1 to 63 of a-z, 0-9, _ and -, and none of "
            f"the words {', '.join(sorted(_TUF_ROLES))}"
        )
    return name


def in_rollout(release: Release, device_id: str) -> bool:
    """Say whether a device is in the share that takes a release; the same answer every time.

    A device is drawn by a hash of channel, seed and device id. With the same seed a larger share
    holds every device of a smaller one.
    """
    seed = release.rollout.seed or json.dumps(_apps(release.apps), sort_keys=True)
    drawn = hashlib.sha256("\0".join((release.channel, seed, device_id)).encode()).digest()
    # 64 bits over 10000 buckets: the bias is far below one device.
    return int.from_bytes(drawn[:8], "big") % 10_000 < release.rollout.percent * 100


def _apps(apps: Mapping[str, App]) -> dict[str, Any]:
    return {
        name: {
            "artifact": app.artifact,
            "sizes": {platform: dict(vars(size)) for platform, size in app.sizes.items()},
        }
        for name, app in apps.items()
    }


class _DuplicateError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        # Two parsers may pick different ones (RFC 8259, section 4).
        raise _DuplicateError("a name stands twice in one object")
    return value


class _Reader:
    """Reads one document; every rule of the schema is one method or one line here."""

    def __init__(self, what: str, strict: bool) -> None:
        self.what = what
        self.strict = strict
        self.error: Callable[[str], ComposeAppsError] = ConfigError if strict else TrustError

    def fail(self, reason: str) -> NoReturn:
        raise self.error(f"{self.what} {reason}")

    def release(self, data: bytes) -> Release:
        if len(data) > LIMIT:
            self.fail(f"is larger than {LIMIT} bytes")
        try:
            value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            reason = "nested too deep" if isinstance(error, RecursionError) else error
            self.fail(f"is not a JSON document: {reason}")
        self.schema(value)
        known = {"schema", "channel", "version", "apps", "rollout", "gates"}
        self.members(value, "the document", known)
        return Release(
            self.channel(value.get("channel")),
            self.integer(value.get("version"), "version", 1, VERSION_LIMIT - 1),
            self.apps(value.get("apps")),
            self.rollout(value.get("rollout", {})),
            self.gates(value.get("gates", {})),
        )

    def schema(self, value: object) -> None:
        if not isinstance(value, dict):
            self.fail("is not a JSON object")
        schema = self.integer(value.get("schema"), "schema", 1, VERSION_LIMIT - 1)
        if schema > SCHEMA:
            self.fail(
                f"has schema {schema}, this agent knows up to {SCHEMA}: update the device's "
                "image first"
            )

    def members(self, value: object, where: str, known: set[str] | None) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.fail(f"is wrong: {where} has to be an object")
        if self.strict and known is not None and not value.keys() <= known:
            unknown = min(value.keys() - known)
            self.fail(f"is wrong: {where} has an unknown field {unknown[:60]!r}")
        return value

    def integer(self, value: object, where: str, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(f"is wrong: {where} has to be an integer from {low} to {high}")
        return value

    def text(self, value: object, where: str) -> str:
        if not isinstance(value, str):
            self.fail(f"is wrong: {where} has to be a string")
        return value

    def channel(self, value: object) -> str:
        try:
            return check_channel(self.text(value, "channel"))
        except ConfigError as error:
            self.fail(f"is wrong: {error}")

    def apps(self, value: object) -> dict[str, App]:
        apps = self.members(value, "apps", None)
        if len(apps) > APPS:
            self.fail(f"has more than {APPS} apps")
        for name in apps:
            if not _PROJECT.fullmatch(name):
                self.fail(
                    f"is wrong: {name[:60]!r} cannot be an app's name, Compose takes 1 to 63 of "
                    "a-z, 0-9, _ and -"
                )
        return {name: self.app(app, f"app {name}") for name, app in sorted(apps.items())}

    def app(self, value: object, where: str) -> App:
        app = self.members(value, where, {"artifact", "sizes"})
        artifact = self.text(app.get("artifact"), f"{where}: artifact")
        try:
            pinned = Reference.parse(artifact).pinned() == artifact
        except ConfigError:
            pinned = False
        if not pinned:
            self.fail(f"is wrong: {where}: artifact has to be registry/repository@sha256:…")
        sizes = self.members(app.get("sizes", {}), f"{where}: sizes", None)
        if len(sizes) > PLATFORMS:
            self.fail(f"has more than {PLATFORMS} platforms for {where}")
        return App(
            artifact,
            {name: self.size(name, size, where) for name, size in sorted(sizes.items())},
        )

    def size(self, platform: str, value: object, where: str) -> Size:
        try:
            normal = str(Platform.parse(platform)) == platform
        except ConfigError:
            normal = False
        if not normal:
            self.fail(f"is wrong: {where}: {platform[:60]!r} is not a platform like linux/arm64")
        where = f"{where}: sizes of {platform}"
        size = self.members(value, where, {"download", "flash"})
        return Size(
            self.integer(size.get("download"), f"{where}: download", 0, VERSION_LIMIT - 1),
            self.integer(size.get("flash"), f"{where}: flash", 0, VERSION_LIMIT - 1),
        )

    def rollout(self, value: object) -> Rollout:
        rollout = self.members(value, "rollout", {"percent", "seed"})
        seed = self.text(rollout.get("seed", ""), "rollout: seed")
        if len(seed) > 100:
            self.fail("is wrong: rollout: seed is longer than 100 characters")
        return Rollout(self.integer(rollout.get("percent", 100), "rollout: percent", 0, 100), seed)

    def gates(self, value: object) -> Gates:
        names = ("health_timeout", "settle")
        gates = self.members(value, "gates", set(names))
        limits = {
            name: self.integer(gates[name], f"gates: {name}", 1, GATE_LIMIT)
            for name in names
            if name in gates
        }
        return Gates(**limits)
