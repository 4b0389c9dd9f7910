"""What the commands do that take a release: as a bundle, and as a factory store."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from composeapps.config import Settings
from composeapps.errors import ConfigError, UsageError
from composeapps.oci import Platform
from composeapps.publish.apps import Tools
from composeapps.publish.bundle import OCI, Recorder, Reusing, Wanted, bundle
from composeapps.publish.content import Content, RegistryContent
from composeapps.publish.naming import named_apps
from composeapps.publish.output import print_result, say
from composeapps.publish.preload import Memory, preload
from composeapps.publish.sealing import Sealer
from composeapps.publish.workplace import compose_program, open_tools, read_settings, with_layout
from composeapps.release import Release
from composeapps.source import Source
from composeapps.store import Store
from composeapps.trust import CheckResult, Trust


def preload_(options: argparse.Namespace) -> None:
    """Write a factory store."""
    root = _root(options)
    platform = Platform.parse(options.platform)
    settings = _settings(options)
    source = Source(settings)
    now: Callable[[], float] = time.time if options.time is None else lambda: options.time
    layout = Path(options.repository) / OCI if options.offline else None
    if options.offline and "://" in options.repository:
        raise UsageError(f"--offline needs a directory, not {options.repository}")

    def make_trust(directory: Path, memory: Memory) -> Trust:
        return Trust(
            *(directory, root, source.metadata_url, source.targets_url, source.get, memory),
            clock=now,
        )

    with open_tools(options, settings, layout) as tools:
        done = preload(options.channel, platform, options.output, root, make_trust, tools)
    apps = {
        name: {"artifact": app.artifact, "images": done.images[name]}
        for name, app in done.release.apps.items()
    }
    _tell(options, done.release, platform, {"platform": str(platform), "apps": apps})


def bundle_(options: argparse.Namespace) -> None:
    """Write a bundle."""
    root = _root(options)
    platform = Platform.parse(options.platform)
    settings = _settings(options)
    apps = {name: reference.pinned() for name, reference in named_apps(options.app).items()}
    source = Source(settings)
    bases = {"metadata": source.metadata_url, "targets": source.targets_url}
    recorder = Recorder(source.get, bases)

    def check(directory: Path) -> CheckResult:
        return Trust(
            *(directory, root, source.metadata_url, source.targets_url, recorder, Memory()),
        ).check(options.channel)

    with tempfile.TemporaryDirectory(prefix=".composeapps-", dir=_parent(options)) as name:
        content: Content = RegistryContent(settings, Path(name), say)
        if options.reuse is not None and options.reuse.is_dir():
            content = Reusing(content, options.reuse)
        sealer = Sealer(Store(Path(name)), settings.seal, say)
        tools = Tools(content, sealer, compose_program(options), say)
        wanted = Wanted(options.release, apps)
        done = bundle(options.output, platform, root, check, recorder, wanted, tools)
    _tell(options, done, platform, {})


def _parent(options: argparse.Namespace) -> Path:
    parent: Path = options.output.parent
    if not parent.is_dir():
        raise ConfigError(f"{parent} is not a directory")
    return parent


def _tell(
    options: argparse.Namespace, done: Release, platform: Platform, more: Mapping[str, Any]
) -> None:
    value = {"channel": done.channel, "version": done.version, "output": str(options.output)}
    text = f"release {done.version} of channel {done.channel} for {platform}: {options.output}"
    print_result(options, {**value, **more}, [text])


def _settings(options: argparse.Namespace) -> Settings:
    """Return the settings with the repository of the command line as source."""
    location = options.repository
    if "://" not in location:
        location = str(Path(location).resolve())
    settings = with_layout(read_settings(options), location)
    return replace(settings, source=replace(settings.source, url=location))


def _root(options: argparse.Namespace) -> bytes:
    """Return the root that the image will carry: the one named, else the repository's newest."""
    path: Path | None = options.root
    if path is None and "://" not in options.repository:
        folder = Path(options.repository, "metadata")
        roots = [one for one in folder.glob("*.root.json") if one.name.split(".")[0].isdecimal()]
        path = max(roots, key=lambda one: int(one.name.split(".")[0]), default=None)
    if path is None:
        raise UsageError(f"no root in {options.repository}: name one that you trust with --root")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
