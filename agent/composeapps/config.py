"""Settings: pure values read from TOML.

Vendor defaults in ``/usr/lib/composeapps/composeapps.toml``, the maker's in
``/etc/composeapps/composeapps.toml``, drop-ins in ``/etc/composeapps/conf.d/*.toml``; later files
win, tables merge, lists replace. An unknown name is an error: a typo must not be silent.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from composeapps.errors import ConfigError

FILES = (
    Path("/usr/lib/composeapps/composeapps.toml"),
    Path("/etc/composeapps/composeapps.toml"),
)
DROP_INS = Path("/etc/composeapps/conf.d")


def _least(default: Any, least: float) -> Any:
    """Return a setting that may not be smaller: what it counts or paces would stop or spin."""
    return field(default=default, metadata={"least": least})


def _one_of(*choices: str) -> Any:
    """Return a setting that has to be one of some words, the first by default."""
    return field(default=choices[0], metadata={"choices": choices})


def _program(*argv: str) -> Any:
    """Return a setting that is a command line; it may not be empty."""
    return field(default=argv, metadata={"least": 1})


@dataclass(frozen=True)
class DeviceSettings:
    """``[device]``: who the device is and what it follows."""

    channel: str = "stable"
    #: A name that stays, for rollouts and reports; empty means ``/etc/machine-id``.
    id: str = ""
    #: Like ``linux/arm64``; empty means what this machine is.
    platform: str = ""
    #: Known good time (seconds since 1970) that the image was built at; 0 means unknown.
    build_time: int = 0


@dataclass(frozen=True)
class PathSettings:
    """``[paths]``: where things are."""

    data: Path = Path("/var/lib/composeapps")
    run: Path = Path("/run/composeapps")
    factory: Path = Path("/usr/share/composeapps/factory")
    #: Glob patterns of the factory stores of other slots, which may be mounted or not.
    other_factories: tuple[str, ...] = field(default=(), metadata={"absolute": True})
    #: Directory of env files, ``<app>.env``, whose variables win over the app's own.
    env: Path = Path("/etc/composeapps/env")
    #: The TUF root that the image carries.
    root: Path = Path("/usr/share/composeapps/root.json")


@dataclass(frozen=True)
class SourceSettings:
    """``[source]``: where releases and content come from. Nothing here needs trust."""

    #: https, http or file URL of a repository made by composeapps-publish; its ``metadata/``,
    #: ``targets/`` and ``oci/`` are used where the next three are empty.
    url: str = ""
    metadata: str = ""
    targets: str = ""
    #: OCI layout looked at first for every blob; "none" for registries only.
    layout: str = ""
    #: Seconds; for one connection attempt and for each read of a socket.
    timeout: float = _least(30.0, 0.1)
    #: Seconds a whole look for a release may take, and bytes it may read.
    check_timeout: float = _least(120.0, 1.0)
    check_bytes: int = _least(32 * 1024 * 1024, 1024)
    #: Tries for one download before it counts as failed, and downloads under way at once.
    attempts: int = _least(5, 1)
    parallel: int = _least(3, 1)
    #: Bytes per second over all downloads; 0 means no cap.
    rate: int = 0
    #: PEM files.
    ca: str = ""
    client_certificate: str = ""
    client_key: str = ""


@dataclass(frozen=True)
class RegistrySettings:
    """``[registry."host:port"]``: how to reach one registry."""

    #: Base URLs tried in order before the registry itself; the scheme says http or https.
    mirrors: tuple[str, ...] = ()
    #: Talk http to the registry itself.
    insecure: bool = False
    ca: str = ""
    client_certificate: str = ""
    client_key: str = ""
    username: str = ""
    #: File that holds the password or token, so that settings need not be secret.
    password_file: str = ""


@dataclass(frozen=True)
class SealSettings:
    """``[seal]``: how layers become sealed layers."""

    #: ``lz4hc``, ``lz4`` or ``none``; the kernel needs only lz4 for the first two.
    compression: str = _one_of("lz4hc", "lz4", "none")
    #: Bytes; a layer that unpacks to more is refused.
    layer_limit: int = 64 * 1024**3
    #: Entries; a layer with more is refused.
    entry_limit: int = 2_000_000


@dataclass(frozen=True)
class EngineSettings:
    """``[engine]``: the Docker Engine and its containerd."""

    docker: str = "unix:///run/docker.sock"
    containerd: str = "/run/containerd/containerd.sock"
    docker_root: Path = Path("/var/lib/docker")
    containerd_root: Path = Path("/var/lib/containerd")
    compose: tuple[str, ...] = _program("docker-compose")
    stop: tuple[str, ...] = _program("systemctl", "stop", "docker.socket", "docker", "containerd")
    start: tuple[str, ...] = _program("systemctl", "start", "containerd", "docker")
    #: Run before ``start``; lets systemd start again what failed too often. May be empty.
    reset_failed: tuple[str, ...] = ("systemctl", "reset-failed", "containerd", "docker")
    #: How sealed layers are mounted: ``file`` (Linux 6.12), ``loop``, or ``auto`` for the first.
    mount: str = _one_of("auto", "file", "loop")
    #: Seconds until a freshly started engine must answer.
    ready_timeout: float = 120.0


@dataclass(frozen=True)
class UpdateSettings:
    """``[update]``: polling and gates."""

    #: Seconds between two looks, and how much of it is added at random at the most.
    interval: float = _least(3600.0, 1.0)
    jitter: float = 600.0
    #: Seconds an app has to become healthy, and that a service without healthcheck must stay up.
    health_timeout: float = _least(300.0, 1.0)
    settle: float = 10.0
    #: Starts of one release that were interrupted (by power cuts) before it counts as failed.
    attempts: int = _least(5, 1)
    #: Bytes that every file system keeps free.
    reserve: int = 32 * 1024 * 1024


@dataclass(frozen=True)
class VerifySettings:
    """``[verify]``: sealed layers that the kernel does not check are hashed from time to time."""

    #: Seconds between two passes over all of them.
    interval: float = _least(30 * 86400.0, 60.0)
    #: Bytes per second; 0 means no cap.
    rate: int = 4_000_000


@dataclass(frozen=True)
class ReportSettings:
    """``[report]``: where outcomes go."""

    #: http or https URL that takes a POST of JSON; empty means that nobody is told.
    url: str = ""
    #: PEM files; ``ca`` replaces the system's authorities.
    ca: str = ""
    client_certificate: str = ""
    client_key: str = ""


@dataclass(frozen=True)
class Settings:
    """All settings."""

    device: DeviceSettings = field(default_factory=DeviceSettings)
    paths: PathSettings = field(default_factory=PathSettings)
    source: SourceSettings = field(default_factory=SourceSettings)
    registry: Mapping[str, RegistrySettings] = field(default_factory=dict)
    seal: SealSettings = field(default_factory=SealSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    update: UpdateSettings = field(default_factory=UpdateSettings)
    verify: VerifySettings = field(default_factory=VerifySettings)
    report: ReportSettings = field(default_factory=ReportSettings)


def load(files: Iterable[Path] = FILES, drop_ins: Path = DROP_INS) -> Settings:
    """Read the settings files that exist, in order.

    Raises:
        ConfigError: a file is not TOML, or holds an unknown name or a value of the wrong type.
    """
    merged: dict[str, Any] = {}
    for path in [*files, *_drop_ins(drop_ins)]:
        values = _read(path)
        parse(values, str(path))
        _merge(merged, values)
    return parse(merged, "settings")


def _drop_ins(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == ".toml")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigError(f"{directory} cannot be read: {error.strerror}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number too long
        raise ConfigError(f"{path}: {error}") from error


def parse(values: Mapping[str, Any], where: str) -> Settings:
    """Make settings of parsed TOML; raises ConfigError naming ``where`` and the setting."""
    sections: dict[str, Any] = {}
    hints = get_type_hints(Settings)
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(f"{where}: unknown section {name[:60]!r}")
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {name[:60]!r} has to be a table")
        if name == "registry":
            sections[name] = {
                host: _section(RegistrySettings, entry, f"{where}: [registry.{host[:60]!r}]")
                for host, entry in value.items()
            }
        else:
            sections[name] = _section(hints[name], value, f"{where}: [{name}]")
    return Settings(**sections)


def _section(kind: Any, values: object, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} has to be a table")
    hints = get_type_hints(kind)
    known = {item.name: item.metadata for item in fields(kind)}
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(
                f"{where} has no setting {name[:60]!r}; known: {', '.join(sorted(known))}"
            )
        given[name] = _value(hints[name], value, f"{where} {name}")
        _check(given[name], known[name], f"{where} {name}")
    return kind(**given)


def _value(kind: Any, value: object, where: str) -> object:
    if get_origin(kind) is tuple:
        if not isinstance(value, list) or any(not isinstance(item, str) for item in value):
            raise ConfigError(f"{where} has to be a list of strings")
        return tuple(value)
    if kind is Path:
        if not isinstance(value, str) or not value.startswith("/"):
            raise ConfigError(f"{where} has to be an absolute path")
        return Path(value)
    if isinstance(value, (int, float)) and not 0 <= value < 2**53:
        raise ConfigError(f"{where} is out of range")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where} has to be of type {kind.__name__}")
    return value


def _check(value: Any, metadata: Mapping[str, Any], where: str) -> None:
    choices, least = metadata.get("choices"), metadata.get("least", 0)
    if choices and value not in choices:
        raise ConfigError(f"{where} has to be one of {', '.join(choices)}")
    if isinstance(value, tuple) and (len(value) < least or (least and not value[0])):
        raise ConfigError(f"{where} has to name a program")
    if isinstance(value, (int, float)) and value < least:
        raise ConfigError(f"{where} has to be {least:g} or more")
    if metadata.get("absolute") and not all(text.startswith("/") for text in value):
        raise ConfigError(f"{where} has to hold absolute paths")
    texts = value if isinstance(value, tuple) else [str(value)]
    if any("\0" in text for text in texts):
        raise ConfigError(f"{where} holds a NUL character")


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, Mapping) else value
