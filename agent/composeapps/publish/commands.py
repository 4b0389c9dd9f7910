"""What each command of ``composeapps-publish`` does."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from composeapps.errors import UsageError
from composeapps.oci import Platform, Reference
from composeapps.publish import rolecommands, takecommands
from composeapps.publish.apps import Made, make_app, read_app
from composeapps.publish.content import mib
from composeapps.publish.naming import named_apps
from composeapps.publish.output import print_outcome, print_result, say
from composeapps.publish.project import Sources
from composeapps.publish.push import Layout, push
from composeapps.publish.repository import Repository
from composeapps.publish.rolecommands import ONLINE
from composeapps.publish.signers import find_signers
from composeapps.publish.workplace import open_tools, read_settings, with_layout
from composeapps.release import App, Gates, Rollout


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
    apps = named_apps(options.apps)
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


def _platforms(options: argparse.Namespace) -> list[Platform]:
    names = [name for value in options.platform for name in value.split(",") if name]
    return list(dict.fromkeys(Platform.parse(name) for name in names))


def _sizes(made: Made) -> dict[str, Any]:
    return {platform: dict(vars(size)) for platform, size in made.sizes.items()}


def _size_lines(made: Made) -> list[str]:
    return [
        f"{platform}: {mib(size.download)} to download, {mib(size.flash)} on flash"
        for platform, size in made.sizes.items()
    ]


COMMANDS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "app": app,
    "bundle": takecommands.bundle_,
    "channel": rolecommands.channel,
    "discard": rolecommands.discard,
    "init": rolecommands.init,
    "key": rolecommands.key,
    "preload": takecommands.preload_,
    "prune": rolecommands.prune,
    "refresh": rolecommands.refresh,
    "release": release,
    "renew": rolecommands.renew,
    "revoke": rolecommands.revoke,
    "rotate": rolecommands.rotate,
    "show": rolecommands.show,
    "sign": rolecommands.sign,
}
