"""Gives an image build the apps of the tests' devices: prints their ``COMPOSEAPPS_PRELOAD``.

``PYTHONPATH=agent:tests:qemu python publish_site.py DIRECTORY`` copies the maker's ``world`` and
its ``factory`` store there, so that what is built goes through the tests of ``tests/qemu``.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import vmworld


def main(directory: str) -> int:
    """Copy it; print ``NAME=REF@DIGEST`` of its apps."""
    base = vmworld.factory_world()
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(base, directory)
    release = json.loads((Path(directory) / "factory" / "release.json").read_text())
    print(*(f"{name}={app['artifact']}" for name, app in sorted(release["apps"].items())))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
