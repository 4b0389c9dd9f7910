"""Does what OE's patched ``python -m installer`` does, for the Python that the Debian tree has."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile

#: With a space in it installer would write a shell script.
PLAIN = "/usr/bin/python3"
PARSER = argparse.ArgumentParser()
PARSER.add_argument("--interpreter", default="/usr/bin/env python3")
PARSER.add_argument("--prefix", default=os.environ.get("prefix", "/usr"))  # noqa: SIM112
PARSER.add_argument("--destdir", required=True)
PARSER.add_argument("--no-compile-bytecode", action="store_true")
PARSER.add_argument("wheel")


def main() -> None:
    """Unpack one wheel below ``--destdir``."""
    given = PARSER.parse_args()
    libraries = f"{given.prefix}/lib/python3.13/site-packages"
    scheme = {
        "purelib": libraries,
        "platlib": libraries,
        "headers": f"{given.prefix}/include",
        "scripts": f"{given.prefix}/bin",
        "data": given.prefix,
    }
    destination = SchemeDictionaryDestination(
        scheme, interpreter=PLAIN, script_kind="posix", destdir=given.destdir
    )
    with WheelFile.open(given.wheel) as wheel:
        install(source=wheel, destination=destination, additional_metadata={})
    for script in Path(f"{given.destdir}{given.prefix}/bin").glob("*"):
        text = script.read_text()
        if text.startswith(f"#!{PLAIN}"):
            script.write_text(text.replace(PLAIN, given.interpreter, 1))


if __name__ == "__main__":
    main()
