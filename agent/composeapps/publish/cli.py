"""The ``composeapps-publish`` command: flags and exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from composeapps import __version__, edge
from composeapps.errors import ComposeAppsError
from composeapps.publish.pack import DEFAULT_LIMIT

_MIB = 1024 * 1024

Add = Callable[[str, str], argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing but defects leaves it as an exception."""
    given = sys.argv[1:] if arguments is None else arguments
    return edge.run("composeapps-publish", given, _work, edge.Words("run it again", _explained))


def _work(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    # Not before: ``--help`` need not load TUF and cryptography.
    from composeapps.publish.commands import COMMANDS

    COMMANDS[options.command](options)
    return 0


def _explained(error: OSError) -> ComposeAppsError:
    return ComposeAppsError(f"{error.filename or 'a file'}: {error.strerror or error}")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="composeapps-publish",
        description="Publish signed releases of Docker Compose apps for devices.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"composeapps {__version__}")
    top.add_argument("--json", action="store_true", help="print what a program can read")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        # The same flag after the command; SUPPRESS keeps what was said before it.
        command.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
        return command

    _add_app(add)
    _add_release(add)
    _add_preload(add)
    _add_keys(add)
    show = add("show", "what a repository holds")
    _repository(show)
    return top


def _add_app(add: Add) -> None:
    app = add("app", "make an app artifact of a Compose project")
    app.add_argument("directory", type=Path, metavar="DIR", help="the project directory")
    app.add_argument("reference", metavar="REF", help="registry/repository[:tag] of the app")
    for flags, text in (
        (("-f", "--file"), "Compose file; several in override order, relative to DIR"),
        (("--env-file",), "file that variables come from, relative to DIR"),
        (("--profile",), "profile that devices start, besides those in x-composeapps"),
    ):
        app.add_argument(*flags, action="append", default=[], metavar=text.split()[0], help=text)
    app.add_argument("--root", type=Path, metavar="DIR", help="directory with all of the project")
    app.add_argument("--images", type=Path, metavar="LAYOUT", help="take images from a layout")
    app.add_argument("--output", type=Path, metavar="LAYOUT", help="write to a layout, do not push")
    app.add_argument(
        "--limit", type=_mebibytes, default=DEFAULT_LIMIT, metavar="MIB",
        help="how much the packed files may be",
    )  # fmt: skip
    _platforms(app)
    _sources(app)


def _add_release(add: Add) -> None:
    release = add("release", "sign a channel's next release")
    _repository(release)
    release.add_argument("channel", metavar="CHANNEL")
    release.add_argument("apps", nargs="+", metavar="[NAME=]REF@DIGEST", help="apps of the release")
    release.add_argument("--percent", type=int, default=100, help="share of devices that take it")
    release.add_argument("--seed", default="", help="draw the devices by this")
    for flag in ("--health-timeout", "--settle"):
        release.add_argument(flag, type=int, metavar="SECONDS", help="limit of the health gate")
    release.add_argument("--number", type=int, default=0, help="version, instead of the next one")
    _platforms(release)
    _sources(release)
    _signers(release)


def _add_preload(add: Add) -> None:
    preload = add("preload", "write a channel's release as a factory store for an image")
    preload.add_argument(
        "--offline", action="store_true", help="content of DIR/oci and nowhere else"
    )
    preload.add_argument(
        "--time", type=_seconds, metavar="SECONDS",
        help="judge what expires as of this time, seconds since 1970, instead of now",
    )  # fmt: skip
    bundle = add("bundle", "copy a channel's release with all it needs, for a stick or a build")
    for command in (preload, bundle):
        command.add_argument("repository", metavar="DIR", help="the repository, or its URL")
        command.add_argument("channel", metavar="CHANNEL")
        command.add_argument("--platform", required=True, metavar="PLATFORM", help="linux/arm64")
        command.add_argument("--output", type=Path, required=True, metavar="DIR")
        command.add_argument("--root", type=Path, metavar="FILE", help="trusted root.json")
        _sources(command)
    bundle.add_argument("--release", default="", metavar="DIGEST", help="this release or none")
    bundle.add_argument(
        "--app", action="append", default=[], metavar="NAME=REF@DIGEST",
        help="these apps or none; once for each",
    )  # fmt: skip
    bundle.add_argument("--reuse", type=Path, metavar="DIR", help="where earlier bundles lie")


def _add_keys(add: Add) -> None:
    init = add("init", "make a repository")
    _repository(init)
    init.add_argument(
        "--channel", action="append", default=[], metavar="NAME", help="channels; stable"
    )
    init.add_argument(
        "--expiry", action="append", default=[], metavar="ROLE=DAYS", help="until signed again"
    )
    init.add_argument(
        "--count", action="append", default=[], metavar="ROLE=N", help="how many keys to make"
    )
    channel = add("channel", "add a channel")
    rotate = add("rotate", "give roles or channels new keys")
    for command in (channel, rotate):
        _repository(command)
    channel.add_argument("channel", metavar="CHANNEL")
    for command in (init, channel, rotate):
        command.add_argument(
            "--role-key", action="append", default=[], metavar="ROLE=FILE", help="who signs a role"
        )
        command.add_argument(
            "--threshold", action="append", default=[], metavar="ROLE=N", help="how many have to"
        )
    key = add("key", "make a key, or register one that lies in a token or a key service")
    key.add_argument("file", type=Path, metavar="FILE", help="without suffix")
    key.add_argument("--uri", metavar="URI", help="hsm:, awskms:, azurekms:, gcpkms: or hv:")
    refresh = add("refresh", "sign timestamp and snapshot for another while")
    renew = add("renew", "sign root, targets or channels for another while")
    revoke = add("revoke", "take a key out of all roles")
    sign = add("sign", "add signatures to a change that waits for them")
    discard = add("discard", "drop a change that waits for signatures")
    prune = add("prune", "remove superseded files")
    for command in (refresh, renew, revoke, sign, discard, prune):
        _repository(command)
    renew.add_argument("roles", nargs="+", metavar="ROLE")
    revoke.add_argument("keyid", metavar="KEYID", help="or its first digits")
    prune.add_argument("--keep", type=int, default=10, metavar="N", help="versions that stay")
    for command in (init, channel, rotate, refresh, renew, revoke, sign):
        _signers(command)
    for command in (init, key):
        command.add_argument("--scheme", default="ed25519", help="ed25519 or ecdsa-sha2-nistp256")
        command.add_argument("--no-password", action="store_true", help="private keys in the clear")
    _password(key)


def _repository(command: argparse.ArgumentParser) -> None:
    command.add_argument("repository", type=Path, metavar="DIR", help="the repository")


def _platforms(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--platform", action="append", default=[], metavar="PLATFORMS",
        help="like linux/amd64,linux/arm64; else all that the images have in common",
    )  # fmt: skip


def _sources(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", type=Path, action="append", default=[], metavar="FILE",
        help="settings as on a device: registries, sealing",
    )  # fmt: skip
    command.add_argument("--cache", type=Path, metavar="DIR", help="where sealed layers are kept")
    command.add_argument("--compose", metavar="PROGRAM", help="docker-compose, or docker compose")


def _signers(command: argparse.ArgumentParser) -> None:
    command.add_argument("--keys", type=Path, metavar="DIR", help="key files named for roles")
    command.add_argument(
        "--key", type=Path, action="append", default=[], metavar="FILE", help="further signing keys"
    )
    _password(command)


def _password(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--password-file", type=Path, metavar="FILE",
        help="password of the keys; else COMPOSEAPPS_PASSWORD, else a prompt",
    )  # fmt: skip


def _seconds(text: str) -> int:
    if not text.isdecimal() or len(text) > 11:
        raise argparse.ArgumentTypeError(f"not seconds since 1970: {text[:40]!r}")
    return int(text)


def _mebibytes(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:6]) <= 1024 or len(text) > 6:
        raise argparse.ArgumentTypeError(f"not a number of MiB from 1 to 1024: {text[:40]!r}")
    return int(text) * _MIB


if __name__ == "__main__":
    sys.exit(main())
