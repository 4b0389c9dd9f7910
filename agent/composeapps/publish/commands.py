"""What each command of ``composeapps-publish`` does."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from composeapps.errors import ConfigError, UsageError
from composeapps.oci import Platform, Reference
from composeapps.publish import rolecommands
from composeapps.publish.apps import Made, make_app, read_app
from composeapps.publish.content import mib
from composeapps.publish.output import print_outcome, print_result, say
from composeapps.publish.preload import Memory, preload
from composeapps.publish.project import Sources
from composeapps.publish.push import Layout, push
from composeapps.publish.repository import Repository
from composeapps.publish.rolecommands import ONLINE
from composeapps.publish.signers import find_signers
from composeapps.publish.workplace import open_tools, read_settings, with_layout
from composeapps.release import App, Gates, Rollout
from composeapps.source import Source
from composeapps.trust import Trust


def app(options: argparse.Namespace) -> None:
    """Make an app artifact, and push it or write it to a layout."""
    reference = Reference.parse(options.reference)
    if reference.digest:
        raise UsageError("REF gets its digest from the app: leave it out")
    if options.images and not options.output:
        raise UsageError("--images goes with --output: images of a layout are not pushed")
    sources = Sources(
        options.directory,
        tuple(options.file),
        tuple(options.env_file),
        options.root,
        tuple(options.profile),
    )
    layout = Layout(options.output) if options.output else None
    settings = read_settings(options)
    with open_tools(options, settings, options.images) as tools:
        made = make_app(sources, _platforms(options), options.limit, tools)
        if layout is not None:
            layout.add(made.packed, reference, made.survey, tools.content, say)
        else:
            push(made.packed, reference, settings)
    pinned = reference.pinned(made.packed.digest)
    notes = [{"kind": note.kind, "text": note.text} for note in made.notes]
    print_result(
        options,
        {"artifact": pinned, "sizes": _sizes(made), "notes": notes},
        [*map(str, made.notes), *_size_lines(made), pinned],
    )


def release(options: argparse.Namespace) -> None:
    """Judge the apps of a release and sign it."""
    apps = _named_apps(options.apps)
    ask = rolecommands.ask_secrets(options)
    roles = (options.channel, "targets", *ONLINE)
    who = find_signers(options.keys, roles, options.key, ask)
    settings = with_layout(read_settings(options), str(options.repository))
    with open_tools(options, settings) as tools:
        measured = {}
        for name, reference in apps.items():
            made = read_app(reference, _platforms(options), tools)
            measured[name] = App(reference.pinned(), made.sizes)
            say("\n".join([f"app {name}: {reference.pinned()}", *_size_lines(made)]))
    outcome = Repository(options.repository).release(
        options.channel,
        measured,
        who,
        rollout=Rollout(options.percent, options.seed),
        gates=Gates(options.health_timeout, options.settle),
        version=options.number,
    )
    done = f"release {outcome.version} of channel {options.channel}"
    print_outcome(options, outcome, done, {"version": outcome.version})


def preload_(options: argparse.Namespace) -> None:
    """Write a factory store."""
    root = _root(options)
    platform = Platform.parse(options.platform)
    location = options.repository
    if "://" not in location:
        location = str(Path(location).resolve())
    settings = with_layout(read_settings(options), location)
    settings = replace(settings, source=replace(settings.source, url=location))
    source = Source(settings)

    def make_trust(directory: Path, memory: Memory) -> Trust:
        return Trust(directory, root, source.metadata_url, source.targets_url, source.get, memory)

    with open_tools(options, settings) as tools:
        done = preload(options.channel, platform, options.output, root, make_trust, tools)
    value = {"channel": done.channel, "version": done.version, "output": str(options.output)}
    text = f"release {done.version} of channel {done.channel} for {platform}: {options.output}"
    print_result(options, value, [text])


def _platforms(options: argparse.Namespace) -> list[Platform]:
    names = [name for value in options.platform for name in value.split(",") if name]
    return list(dict.fromkeys(Platform.parse(name) for name in names))


def _named_apps(texts: Sequence[str]) -> dict[str, Reference]:
    """Read ``[NAME=]REF@DIGEST``; a name is else the last part of the repository's."""
    found: dict[str, Reference] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        reference = Reference.parse(rest if equals else text)
        if not reference.digest:
            raise UsageError(f"{text} has no digest: name the app as composeapps-publish app said")
        name = name if equals else reference.repository.rpartition("/")[2]
        if name in found:
            raise UsageError(f"two apps are called {name}: write NAME={text}")
        found[name] = reference
    return found


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


def _sizes(made: Made) -> dict[str, Any]:
    return {platform: dict(vars(size)) for platform, size in made.sizes.items()}


def _size_lines(made: Made) -> list[str]:
    return [
        f"{platform}: {mib(size.download)} to download, {mib(size.flash)} on flash"
        for platform, size in made.sizes.items()
    ]


COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "app": app,
    "channel": rolecommands.channel,
    "discard": rolecommands.discard,
    "init": rolecommands.init,
    "key": rolecommands.key,
    "preload": preload_,
    "prune": rolecommands.prune,
    "refresh": rolecommands.refresh,
    "release": release,
    "renew": rolecommands.renew,
    "revoke": rolecommands.revoke,
    "rotate": rolecommands.rotate,
    "show": rolecommands.show,
    "sign": rolecommands.sign,
}
