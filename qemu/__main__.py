"""The virtual device for a person: ``python -m qemu build|boot|shell|cut``.

    python -m qemu build disk.raw --factory factory/ --settings composeapps.toml
    python -m qemu boot disk.raw           # its console; ends when it is off
    python -m qemu shell disk.raw          # commands in it, from another terminal
    python -m qemu cut disk.raw --seed 7   # power away; what was not flushed is lost

Needs root. The guest reaches ``--reach PORT=HOST:PORT`` of this machine at 10.0.2.2, nothing else.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import image
from architecture import AMD64, ARCHITECTURES
from channel import MachineError
from devicetree import device_tree
from disk import Disk
from hardware import Options
from vm import Machine

GIB = 1024**3


def main() -> int:
    """Do what the command line says."""
    arguments = _parser().parse_args()
    try:
        code: int = arguments.run(arguments)
    except (MachineError, RuntimeError, ValueError, OSError) as error:
        print(f"qemu: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m qemu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb, run in (("build", build), ("boot", boot), ("shell", shell), ("cut", cut)):
        made = verbs.add_parser(verb, help=run.__doc__)
        made.add_argument("disk", type=Path, help="disk image")
        made.set_defaults(run=run)
        if verb in ("build", "boot"):
            made.add_argument("--architecture", choices=ARCHITECTURES, default=AMD64.name)
        if verb == "build":
            made.add_argument("--factory", type=Path, help="factory store (preload's output)")
            made.add_argument("--settings", type=Path, help="composeapps.toml of the device")
            made.add_argument("--size", type=int, default=8, help="GiB, 8 by default")
        if verb == "boot":
            made.add_argument("--slot", choices=("a", "b"), default="a")
            made.add_argument("--append", default="", help="words for the kernel")
            made.add_argument("--no-network", action="store_true")
            made.add_argument("--reach", action="append", default=[], metavar="PORT=HOST:PORT")
        if verb == "shell":
            made.add_argument("command", nargs=argparse.REMAINDER, help="one command and no more")
        if verb == "cut":
            made.add_argument("--seed", default="0", help="decides what of the rest is lost")
    return parser


def build(arguments: argparse.Namespace) -> int:
    """Write a disk image."""
    settings = arguments.settings.read_text() if arguments.settings else ""
    tree = device_tree(architecture=ARCHITECTURES[arguments.architecture])
    root = image.root_image(image.Inputs(factory=arguments.factory, settings=settings), tree)
    image.write_disk(root, arguments.disk, arguments.size * GIB)
    return 0


def _machine(arguments: argparse.Namespace, options: Options | None = None) -> Machine:
    place = arguments.disk.with_suffix(".machine").resolve()
    return Machine(place, Disk(arguments.disk.resolve()), options)


def boot(arguments: argparse.Namespace) -> int:
    """Turn the device on and show its console until it is off."""
    options = Options(slot=arguments.slot, append=arguments.append, channel=False)
    options.network = not arguments.no_network
    options.architecture = ARCHITECTURES[arguments.architecture]
    machine = _machine(arguments, options)
    console, seed = machine.directory / "console.log", machine.directory / "seed"
    seed.unlink(missing_ok=True)
    console.write_bytes(b"")
    for item in arguments.reach:
        port, _, target = item.partition("=")
        host, _, number = target.rpartition(":")
        machine.reach(int(port), (host, int(number)))
    machine.start()
    process = machine.directory / "pid"
    process.write_text(str(machine.pid))
    threading.Thread(target=_follow, args=(console,), daemon=True).start()
    try:
        code = machine.wait()
    except KeyboardInterrupt:
        machine.close()
        return 130
    finally:
        process.unlink()
    time.sleep(0.3)  # the console's last lines
    word = seed.read_text() if seed.exists() else "0"
    loss = machine.disk.settle(random.Random(word) if code == -signal.SIGKILL else None)
    print(f"off: {loss.durable + loss.kept} writes are on the disk, {loss.lost} are lost")
    return 0


def _follow(path: Path) -> None:
    with path.open("rb") as file:
        while True:
            sys.stdout.buffer.write(file.read())
            sys.stdout.flush()
            time.sleep(0.1)


def shell(arguments: argparse.Namespace) -> int:
    """Run commands in the device: one, or those that are typed."""
    machine = _machine(arguments)
    machine.attach()
    machine.wait_for_channel()
    if arguments.command:
        return _show(machine, *arguments.command)
    while True:
        try:
            line = input("device# ")
        except EOFError:
            return 0
        if line.strip():
            _show(machine, "sh", "-c", line)


def _show(machine: Machine, *command: str) -> int:
    done = machine.run(*command, check=False)
    sys.stdout.write(done.out)
    sys.stderr.write(done.err)
    return done.code


def cut(arguments: argparse.Namespace) -> int:
    """Take the power away."""
    place = arguments.disk.with_suffix(".machine")
    if not (place / "pid").exists():
        raise MachineError(f"no machine was started with {arguments.disk}")
    (place / "seed").write_text(arguments.seed)
    os.kill(int((place / "pid").read_text()), signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
