"""Hostile layers: each is refused in one line that names the entry; memory and work are bounded."""

from __future__ import annotations

import odd
import pytest
from layers import directory, file, hard_link, pax, symlink, tar, xattrs
from layertreeparts import chain, made
from trees import MEMORY, applied, stream

from composeapps import tarstream
from composeapps.errors import SealError
from composeapps.layertree import Applier
from composeapps.rootpath import EFFORT_LIMIT, Effort


@pytest.mark.parametrize("name", [*odd.refused(), *odd.stricter()])
def test_refusals(name: str) -> None:
    layer = {**odd.refused(), **odd.stricter()}[name]
    with pytest.raises(SealError) as caught:
        applied(layer, chain(odd.base(b"")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", odd.refused_first())
def test_refusals_of_chains(name: str) -> None:
    layers = odd.refused_first()[name]
    below = chain(*layers[:-1])
    with pytest.raises(SealError, match=r"^entry '"):
        applied(layers[-1], below)


def test_a_refusal_names_the_entry() -> None:
    with pytest.raises(SealError, match=r"^entry 'd/new\\x0aline': its hard-link target 'nothing'"):
        made(hard_link("d/new\nline", "nothing"))


def test_memory_is_bounded() -> None:
    """More entries than fit are refused, whatever they are made of."""
    many = tar(*(file(f"f{number}", b"") for number in range(2000)))
    attributes = tar(*(xattrs({"user.x": b"x" * 5000}) + file(f"f{n}", b"") for n in range(100)))
    targets = tar(*(pax({"linkpath": "x" * 4000}) + symlink(f"f{n}", "x") for n in range(100)))
    again = tar(*(directory("d" * 200) for _ in range(2000)))
    for layer in (many, attributes, targets, again):
        with pytest.raises(SealError, match="bound on memory"):
            applied(layer, chain(tar()), memory=200_000)


def test_deep_paths_through_links_cost_what_they_are_long() -> None:
    """As deep as a path may be, through a link, again and again: no walk begins at the root."""
    depth, times = 1900, 20
    deep = "/".join(["a"] * depth)
    entries = [pax({"path": f"l/{deep}/../{n}/f"}) + file("x", b"") for n in range(times)]
    applier = applied(tar(symlink("l", "."), pax({"path": deep}) + directory("x"), *entries))
    assert EFFORT_LIMIT - applier._effort.left < 5 * depth * times


def test_endless_resolving_is_refused() -> None:
    """Links that double at each step do not keep an agent busy."""
    links = [symlink(f"{n}", f"{n + 1}/../{n + 1}") for n in range(60)]
    names = [f"{a}/{b}/{c}/x" for a in range(30) for b in range(10) for c in range(10)]
    applier = Applier(chain(tar()), MEMORY)
    applier._effort = Effort(100_000)
    with pytest.raises(SealError, match="too many"):
        for member in tarstream.members(stream(tar(*links, *map(file, names)))):
            applier.apply(member)
