"""Hypothesis strategies for layers: few names and many ways for entries to meet one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import layers as maker
from hypothesis import strategies as st

#: Names that the base layer of ``odd`` has are among these, and so are whiteouts of them.
PARTS = ["a", "b", "c", "old", "noted", "deep", "er", "way", "plain", "gone"]
ODD_PARTS = ["..", ".", "", "ü", "x" * 120]
MODES = [0o644, 0o755, 0, 0o4755, 0o2775, 0o1777, 0o7777]
NUMBERS = [0, 1, 1000, 65536, 2**31, -1]
TIMES = [0, 1, 1_700_000_000, 2**31, 2**33, 2**40, -1]
XATTRS: list[dict[str, bytes]] = [
    {},
    {"user.a": b"1"},
    {"user.b": b"\0\n=", "trusted.x": b"1"},
    {"security.capability": maker.CAPABILITY},
    {"nonsense.x": b"1", "security.note": b""},
]

part = st.one_of(st.sampled_from(PARTS), st.sampled_from(PARTS), st.sampled_from(PARTS + ODD_PARTS))


@st.composite
def paths(draw: st.DrawFn) -> str:
    """Return a path of one to four parts, relative or not, with or without a slash at its end."""
    names = draw(st.lists(part, min_size=1, max_size=4))
    start = draw(st.sampled_from(["", "", "", "./", "/"]))
    end = draw(st.sampled_from(["", "", "", "/"]))
    return start + "/".join(names) + end


@dataclass(frozen=True)
class Entry:
    """An entry's bytes, and what they are: a failure has to be readable."""

    text: str
    data: bytes

    def __repr__(self) -> str:
        """Return the description only."""
        return self.text


def entry(make: str, *arguments: Any, **fields: Any) -> Entry:
    """Return what a function of ``layers`` makes, described as its call."""
    words = [repr(argument) for argument in arguments]
    words += [f"{name}={value!r}" for name, value in fields.items()]
    return Entry(f"{make}({', '.join(words)})", getattr(maker, make)(*arguments, **fields))


@st.composite
def whiteouts(draw: st.DrawFn) -> Entry:
    """Return a whiteout or an opaque marker."""
    above = draw(st.one_of(st.just(""), paths().map(lambda path: path.rstrip("/") + "/")))
    name = draw(st.one_of(st.sampled_from(PARTS).map(".wh.{}".format), st.just(".wh..wh..opq")))
    return entry("file", above + name, b"", uid=draw(st.sampled_from(NUMBERS)))


@st.composite
def nodes(draw: st.DrawFn) -> Entry:
    """Return an entry that makes something, in one of the header formats."""
    kinds = [maker.FILE, maker.FILE, maker.DIR, maker.DIR, maker.DIR, maker.LINK, maker.SYMLINK]
    kind = draw(st.sampled_from([*kinds, maker.FIFO, maker.CHAR, 0]))
    path = draw(paths())
    link = draw(paths()) if kind in (maker.LINK, maker.SYMLINK) else ""
    data = draw(st.binary(max_size=600)) if kind in (maker.FILE, 0) else b""
    fields = {
        "mode": draw(st.sampled_from(MODES)),
        "uid": draw(st.sampled_from(NUMBERS)),
        "gid": draw(st.sampled_from(NUMBERS)),
        "mtime": draw(st.sampled_from(TIMES)),
        "magic": draw(st.sampled_from([maker.USTAR, maker.GNU, maker.V7])),
    }
    before = draw(st.sampled_from([_no_header, _long_names, _pax_names]))(path, link)
    attributes = draw(st.sampled_from(XATTRS))
    if attributes and not before.data:
        before = entry("xattrs", attributes)
    after = entry("entry", path, kind, data, link=link, **fields)
    return Entry(f"{before}{after}", before.data + after.data)


def _no_header(path: str, link: str) -> Entry:
    too_long = len(path.encode()) > 100 or len(link.encode()) > 100
    return _long_names(path, link) if too_long else Entry("", b"")


def _long_names(path: str, link: str) -> Entry:
    name = entry("long_name", path)
    target = entry("long_name", link, b"K") if link else Entry("", b"")
    return Entry(f"{name}{target}", name.data + target.data)


def _pax_names(path: str, link: str) -> Entry:
    return entry("pax", {"path": path, "linkpath": link, "mtime": "1600000000.000000007"})


@st.composite
def sparse(draw: st.DrawFn) -> Entry:
    """Return a sparse file in one of the formats."""
    pieces = st.dictionaries(st.integers(0, 9), st.binary(max_size=900), max_size=4)
    return entry(
        draw(st.sampled_from(["sparse_0", "sparse_1"])),
        draw(st.sampled_from(PARTS)),
        10_000 + draw(st.integers(0, 5000)),
        [(at * 1000, data) for at, data in sorted(draw(pieces).items())],
    )


@st.composite
def global_headers(draw: st.DrawFn) -> Entry:
    """Return a global header, with or without a name of its own."""
    path = draw(st.one_of(st.just(""), paths()))
    return entry("pax", {"uid": "7"} | ({"path": path} if path else {}), b"g")


one = st.one_of(
    nodes(), nodes(), nodes(), nodes(), nodes(), whiteouts(), sparse(), global_headers()
)
layers = st.lists(one, min_size=1, max_size=9)
