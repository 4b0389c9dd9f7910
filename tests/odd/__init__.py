"""Odd but legal images, and layers that the engine refuses: what sealing is measured with.

``IMAGES``: layers of an image by name. Every image gets a base layer with a program below these,
except those whose name begins with "first".
"""

from __future__ import annotations

from odd.files import attributes, data, kinds
from odd.refusals import refused, refused_first, stricter
from odd.trees import Images, base, layered, names_twice

IMAGES: Images = {
    name: layers
    for make in (kinds, data, names_twice, attributes, layered)
    for name, layers in make().items()
}

__all__ = ["IMAGES", "Images", "base", "refused", "refused_first", "stricter"]
