"""What the commands work with on a maker's machine: settings, cache, Compose, content."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from composeapps import config, durable
from composeapps.errors import UsageError
from composeapps.publish.apps import Tools
from composeapps.publish.content import Content, RegistryContent, open_layout
from composeapps.publish.output import say
from composeapps.publish.sealing import Sealer


@contextmanager
def open_tools(
    options: argparse.Namespace, settings: config.Settings, images: Path | None = None
) -> Iterator[Tools]:
    """Give what the steps work with, and clear away what they leave."""
    with tempfile.TemporaryDirectory(prefix="composeapps-") as name:
        scratch = Path(name)
        cache = _cache(options, scratch)
        sealer = Sealer.cached(cache, settings.seal, say)
        program = compose_program(options)
        if images is None:
            content: Content = RegistryContent(settings, sealer.store.root, say)
            yield Tools(content, sealer, program, say)
            return
        with open_layout(images, sealer.store.root) as layout:
            yield Tools(layout, sealer, program, say)


def _cache(options: argparse.Namespace, scratch: Path) -> Path:
    if options.cache is not None:
        return Path(options.cache)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    cache = Path(base, "composeapps")
    try:
        durable.make_dir(cache)
    except OSError as error:
        say(f"{cache} cannot be written ({error.strerror}): layers are sealed anew each time")
        return scratch
    return cache


def compose_program(options: argparse.Namespace) -> tuple[str, ...]:
    """Return how Compose is started: as the options say, else what is installed."""
    if options.compose:
        return tuple(shlex.split(options.compose))
    if shutil.which("docker-compose") is None and shutil.which("docker") is not None:
        return ("docker", "compose")
    return ("docker-compose",)


def read_settings(options: argparse.Namespace) -> config.Settings:
    """Read the settings that ``--config`` names; raises ConfigError, UsageError."""
    for path in options.config:
        if not path.is_file():
            raise UsageError(f"no settings file {path}")
    return config.load(options.config, Path(os.devnull))


def with_layout(settings: config.Settings, repository: str) -> config.Settings:
    """Look for content in the repository's own OCI layout first, where it has one."""
    if settings.source.layout or "://" in repository:
        return settings
    layout = Path(repository).resolve() / "oci"
    found = str(layout) if layout.is_dir() else "none"
    return replace(settings, source=replace(settings.source, layout=found))
