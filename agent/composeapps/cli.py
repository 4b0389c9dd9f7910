"""The ``composeapps`` command: its verbs and flags."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from composeapps import __version__, config, edge
from composeapps.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; nothing but defects leaves it as an exception."""
    return edge.run("composeapps", sys.argv[1:] if arguments is None else arguments, _work)


def _work(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    level = logging.DEBUG if options.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    return int(options.run(options) or 0)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    top = edge.Parser(
        prog="composeapps", description="Run signed Docker Compose apps.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"composeapps {__version__}")
    top.add_argument(
        "--config", action="append", type=Path, metavar="FILE", default=[],
        help="read settings from FILE only; may be given again",
    )  # fmt: skip
    top.add_argument("--json", action="store_true", help="print what a program can read")
    top.add_argument("--verbose", action="store_true", help="say more on stderr")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def add(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> Any:
        verb = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        verb.set_defaults(run=run)
        # The same flag after the verb; SUPPRESS keeps what was said before it.
        verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
        return verb

    add("check", _lazy("check"), "look for a newer release")
    update = add("update", _lazy("update"), "check, fetch and apply")
    add("fetch", _lazy("fetch"), "download and seal what the newest release needs")
    add("apply", _lazy("apply"), "switch to the fetched release")
    add("mount", _mount, "mount sealed layers, before the engine starts")
    start = add("start", _lazy("start"), "run the release, mend what does not run")
    for verb in (start, update):
        verb.add_argument("--unless-stopped", action="store_true", help="let the apps stay stopped")
    add("stop", _lazy("stop"), "stop the apps until the next start, or a reboot")
    add("status", _lazy("status"), "what runs, what failed, what is under way")
    add("ps", _lazy("ps"), "the containers of the apps")
    logs = add("logs", _lazy("logs"), "an app's logs")
    logs.add_argument("app")
    logs.add_argument("service", nargs="*")
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("-n", "--tail", type=_lines, default=100, metavar="LINES")
    add("ls", _lazy("ls"), "the releases that the device knows")
    add("diff", _lazy("diff"), "what the newest release would change and cost")
    reset = add("reset", _lazy("reset"), "throw a part of the engine's index away and mend it")
    which = reset.add_mutually_exclusive_group()
    which.add_argument("app", nargs="?")
    which.add_argument("--engine", action="store_true", help="the engine's whole store")
    which.add_argument("--factory", action="store_true", help="go back to the factory release")
    reset.add_argument(
        "--wipe-volume", action="append", default=[], metavar="VOLUME", help="and remove a volume"
    )
    verify = add("verify", _lazy("verify"), "compare everything with what it has to be")
    how = verify.add_mutually_exclusive_group()
    how.add_argument("--deep", action="store_true", help="read every sealed layer")
    how.add_argument("--scrub", action="store_true", help="read those that are due, slowly; mend")
    add("prune", _lazy("prune"), "remove what no kept release needs")
    add("keep", _lazy("keep"), "copy what the image's store has, before the image changes")
    add("retry", _lazy("retry"), "allow a failed release to be tried again")
    add("report", _lazy("report"), "deliver the events that are not delivered yet")
    add("run", _run, "stay and do all this when it is due")
    return top


def _lines(text: str) -> int:
    if not text.isdecimal() or int(text) > 1_000_000:
        raise argparse.ArgumentTypeError(f"not a number of lines: {text[:40]!r}")
    return int(text)


def settings_of(options: argparse.Namespace) -> config.Settings:
    """Read the settings, from ``--config`` files where given; raises ConfigError, UsageError."""
    for path in options.config:
        if not path.is_file():
            raise UsageError(f"no settings file {path}")
    if options.config:
        return config.load(options.config, Path(os.devnull))
    return config.load()


def _lazy(name: str) -> Callable[[argparse.Namespace], int | None]:
    """Return a verb that loads its code when it runs: ``run`` never pays for it."""

    def run(options: argparse.Namespace) -> int | None:
        from composeapps import verbs
        from composeapps.device import Device

        return verbs.VERBS[name](Device(settings_of(options)), options)

    return run


def _mount(options: argparse.Namespace) -> None:
    """Mount what the engine's containers stand on; loads little, the boot waits for it."""
    from composeapps import early
    from composeapps.device import Device

    names = early.mount(Device(settings_of(options)))
    print(json.dumps({"mounted": names}) if options.json else f"{len(names)} layers are mounted")


def _run(options: argparse.Namespace) -> int:
    from composeapps.supervise import Supervisor

    command = [sys.executable, "-m", "composeapps.cli"]
    for path in options.config:
        command += ["--config", str(path)]
    with contextlib.suppress(KeyboardInterrupt):
        return Supervisor(settings_of(options), command).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
