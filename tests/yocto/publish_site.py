"""Publishes a small app for an image build: prints what ``COMPOSEAPPS_PRELOAD`` has to be.

``PYTHONPATH=agent:tests:qemu python publish_site.py DIRECTORY`` makes a maker's repository in
``DIRECTORY/site``, with all content beside the metadata.
"""

from __future__ import annotations

import sys
from pathlib import Path

from world import TICKER, World, base_layer, noise_layer

PINS = "# Written for a test.\nservices:\n  main:\n    image: {image}\n"


def main(directory: str) -> int:
    """Publish; print ``NAME=REF@DIGEST``."""
    world = World(Path(directory).resolve())
    image = world.image("ticker", [base_layer(), noise_layer(1, 1_000_000)], {})
    compose = TICKER.format(image=image, mark="factory")
    app = world.app(compose, {"image-digests.yaml": PINS.format(image=image)})
    world.release({"ticker": app})
    print(f"ticker={app}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
