"""Image configs, judged as strictly as the engine reads them. Pure functions, no IO.

Docker 26 answers every listing with an error once it holds an image whose config it cannot read, so
a config is judged before the engine is told of it. Sources: OCI image-spec 1.1 (config), Docker's
additions to it (moby/docker-image-spec: Healthcheck, OnBuild, Shell), and how Go reads JSON:
``null`` counts as absent, an unknown name is skipped, a name in other letters counts as known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from composeapps.errors import ConfigError, IntegrityError
from composeapps.oci import Platform, load_json, parse_digest, read_platform

#: A scalar's name, a list of one kind, or an object: its fields, or ``*`` for a map of one kind.
Kind = str | Sequence["Kind"] | Mapping[str, "Kind"]

_SET: Kind = {"*": {}}
_HEALTHCHECK: Kind = {
    "Test": ["string"], "Interval": "int", "Timeout": "int", "StartPeriod": "int",
    "StartInterval": "int", "Retries": "int",
}  # fmt: skip
_CONFIG: Kind = {
    "User": "string", "ExposedPorts": _SET, "Env": ["string"], "Entrypoint": ["string"],
    "Cmd": ["string"], "Volumes": _SET, "WorkingDir": "string", "Labels": {"*": "string"},
    "StopSignal": "string", "ArgsEscaped": "bool", "Healthcheck": _HEALTHCHECK,
    "OnBuild": ["string"], "Shell": ["string"],
}  # fmt: skip
_HISTORY: Kind = {
    "created": "time", "created_by": "string", "author": "string", "comment": "string",
    "empty_layer": "bool",
}  # fmt: skip
_IMAGE: Kind = {
    "created": "time", "author": "string", "architecture": "string", "variant": "string",
    "os": "string", "os.version": "string", "os.features": ["string"], "config": _CONFIG,
    "rootfs": {"type": "string", "diff_ids": ["string"]}, "history": [_HISTORY],
}  # fmt: skip

#: RFC 3339, section 5.6, as Go's ``time.Time`` takes it.
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


@dataclass(frozen=True)
class ImageConfig:
    """What is needed of an image's config: its platform and its layers' diff IDs."""

    platform: Platform
    diff_ids: tuple[str, ...]


def parse_config(data: bytes, what: str) -> ImageConfig:
    """Read an image config; raises IntegrityError naming ``what`` where the engine could not."""
    value = load_json(data, what)
    wrong = _wrong(value, _IMAGE, "")
    if wrong:
        raise IntegrityError(f"{what}: {wrong} has the wrong type, or its name the wrong letters")
    rootfs, platform = value.get("rootfs") or {}, read_platform(value)
    if platform is None:
        raise IntegrityError(f"{what} is not an image config: it names no platform")
    if rootfs.get("type") != "layers" or rootfs.get("diff_ids") is None:
        raise IntegrityError(f"{what} has no list of diff IDs")
    try:
        diff_ids = tuple(parse_digest(item) for item in rootfs["diff_ids"])
    except ConfigError as error:
        raise IntegrityError(f"{what}: {error}") from error
    return ImageConfig(platform, diff_ids)


def _wrong(value: Any, kind: Kind, where: str) -> str:
    """Return where a value is not of its kind, or an empty string."""
    if value is None:
        return ""
    if isinstance(kind, str):
        return "" if _is_scalar(value, kind) else where
    if isinstance(kind, Mapping):
        return _wrong_field(value, kind, where) if isinstance(value, dict) else where
    if not isinstance(value, list):
        return where
    return next(filter(None, (_wrong(item, kind[0], where) for item in value)), "")


def _wrong_field(value: Mapping[str, Any], kinds: Mapping[str, Kind], where: str) -> str:
    folded = {name.casefold() for name in kinds}
    for name, item in value.items():
        path = f"{where}.{name[:40]!r}".lstrip(".")
        kind = kinds.get("*", kinds.get(name))
        if kind is None and name.casefold() in folded:
            return path  # the engine would take it for the name it resembles
        wrong = "" if kind is None else _wrong(item, kind, path)
        if wrong:
            return wrong
    return ""


def _is_scalar(value: object, kind: str) -> bool:
    if kind == "string":
        return isinstance(value, str)
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return isinstance(value, str) and _is_time(value)


def _is_time(text: str) -> bool:
    found = _TIME.fullmatch(text)
    if found is None:
        return False
    try:
        # Year 0 is a year to Go and none to Python; it is a leap year, as 2000 is.
        datetime.fromisoformat(re.sub(r"^0000", "2000", found[1]))
    except ValueError:
        return False
    return True
