"""What the tests of the trees that layers make share."""

from __future__ import annotations

from typing import Any

from layers import tar
from trees import Layer, applied, of_tree


def made(*entries: bytes, below: tuple[bytes, ...] = ()) -> dict[str, dict[str, Any]]:
    """Return the tree of a layer on top of others, the first of them at the bottom."""
    return of_tree(applied(tar(*entries), chain(*below)).tree)


def chain(*layers: bytes) -> list[Layer]:
    """Return layers as those below another one, topmost first."""
    found: list[Layer] = []
    for layer in layers:
        found.insert(0, Layer(applied(layer, found).tree))
    return found
