"""Layers that containerd refuses, or that sealing refuses where some engine does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import layers as maker
from layers import directory, file, hard_link, header, pax, symlink, tar, xattrs

Images = Mapping[str, Sequence[bytes]]


def refused() -> Mapping[str, bytes]:
    """Layers that containerd refuses on top of the base layer."""
    sparse = maker.GNU[:8]
    return {
        "old sparse": tar(header("s", b"S"[0], size=512, magic=sparse) + bytes(512)),
        "hard link to nothing": tar(hard_link("a", "nothing")),
        "hard link to what is below": tar(hard_link("a", "plain")),
        "hard link to a directory": tar(directory("d"), hard_link("a", "d")),
        "hard link out": tar(hard_link("a", "..")),
        "hard link to itself": tar(file("a"), hard_link("a", "a")),
        "hard link to the root": tar(hard_link("a", "/")),
        "hard link without target": tar(hard_link("a", "")),
        "file as a directory": tar(file("f"), file("f/below")),
        "file as a directory, deeper": tar(file("f"), file("f/g/below")),
        "fifo as a directory": tar(maker.entry("f", maker.FIFO), file("f/below")),
        "link to a file as a directory": tar(file("f"), symlink("l", "f"), file("l/below")),
        "contiguous file": tar(maker.entry("f", b"7"[0], b"x")),
        "volume header": tar(maker.entry("label", b"V"[0])),
        "unknown type": tar(maker.entry("f", b"Z"[0], b"x")),
        "whiteout without name": tar(file(".wh.")),
        "whiteout of the directory": tar(file("d/.wh..")),
        "whiteout of the parent": tar(file("d/.wh...")),
        "whiteout of its own": tar(file("f"), file(".wh.f")),
        "whiteout twice": tar(file(".wh.plain"), file(".wh.plain")),
        "symlink without target": tar(symlink("l", "")),
        "long symlink": tar(maker.long_name("t" * 5000, b"K"), symlink("l", "x", magic=maker.GNU)),
        "long name": tar(pax({"path": "n" * 256}), file("x")),
        "long name of a parent": tar(pax({"path": "n" * 256 + "/f"}), file("x")),
        "long path": tar(pax({"path": "/".join(["p" * 200] * 25)}), file("x")),
        "wrong checksum": tar(file("f", checksum=lambda _: b"0000001\0")),
        "no checksum": tar(file("f", checksum=lambda _: b"nonsense")),
        "size no number": tar(file("f", b"", size=b"12x")),
        "mode no number": tar(file("f", mode=b"rw-r--r-")),
        "device no number": tar(file("f", major=b"x")),
        "negative size": tar(file("f", b"", size=maker.base256(-1, 12))),
        "huge size": tar(file("f", b"", size=b"\x80" + b"\xff" * 11)),
        "negative PAX size": tar(pax({"size": "-1"}), file("f", b"")),
        "PAX uid no number": tar(pax({"uid": "x"}), file("f")),
        "PAX time no number": tar(pax({"mtime": "1.x"}), file("f")),
        "PAX record too long": tar(maker.entry("p", b"x"[0], b"99 path=x\n"), file("f")),
        "PAX record without newline": tar(maker.entry("p", b"x"[0], b"9 path=xy"), file("f")),
        "PAX record without value": tar(maker.entry("p", b"x"[0], b"8 path_\n"), file("f")),
        "PAX path with NUL": tar(pax({"path": "a\0b"}), file("f")),
        "PAX header too large": tar(pax({"comment": "x" * (1024 * 1024)}), file("f")),
        "PAX header in zeros": tar(maker.entry("p", b"x"[0], bytes(20)), file("f")),
        "sparse map too short": tar(
            maker.sparse_1("s", 9000, [(0, b"1" * 512)])[:-1024], b"\0" * 512
        ),
        "sparse data left over": tar(
            pax({"GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,5", "GNU.sparse.size": "9"}),
            file("s", b"123456789"),
        ),
        "sparse data missing": tar(
            pax({"GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,9", "GNU.sparse.size": "9"}),
            file("s", b"12345"),
        ),
        "sparse out of order": tar(
            pax(
                {"GNU.sparse.numblocks": "2", "GNU.sparse.map": "5,5,0,5", "GNU.sparse.size": "10"}
            ),
            file("s", b"1234567890"),
        ),
        "sparse count wrong": tar(
            pax({"GNU.sparse.numblocks": "2", "GNU.sparse.map": "0,5", "GNU.sparse.size": "10"}),
            file("s", b"12345"),
        ),
        "sparse directory": tar(
            pax(
                {"GNU.sparse.numblocks": "0", "GNU.sparse.map": "", "GNU.sparse.major": "0"}
                | {"GNU.sparse.minor": "1"}
            ),
            directory("s"),
        ),
        "capability of no kind": tar(xattrs({"security.capability": b"x"}), file("f")),
        "capability too short": tar(
            xattrs({"security.capability": maker.CAPABILITY[:12]}), file("f")
        ),
        "attribute without name": tar(xattrs({"user.": b"x"}), file("f")),
        "attribute with no name at all": tar(pax({"SCHILY.xattr.": "x"}), file("f")),
        "attribute with a long name": tar(xattrs({"user." + "n" * 251: b"x"}), file("f")),
        "cut off in data": tar(file("f", b"x" * 5000))[:3000],
        "cut off in a header": file("f") + file("g")[:200],
        "cut off in a PAX header": pax({"comment": "x" * 2000})[:1000],
        "header after zeros": file("f") + bytes(512) + file("g") + maker.END,
        "half a block after zeros": file("f") + bytes(700),
        "no tar at all": b"this is not a tar archive. " * 100,
        "symlink circle": tar(symlink("a", "b"), symlink("b", "a"), file("a/f")),
        "symlink to itself": tar(symlink("a", "a/x"), file("a/f")),
        "directory's time lost": tar(directory("d"), symlink("d", "nowhere")),
        "global header where a directory was": tar(
            directory("pax"), pax({"comment": "deletes it"}, b"g")
        ),
    }


def refused_first() -> Images:
    """Images that containerd refuses, without a base layer."""
    return {
        "deletes a directory of its own": [tar(directory("d"), file(".wh.d"))],
        "opaque after a symlink": [tar(directory("d"), symlink("d", "x"), file(".wh..wh..opq"))],
        "implied below a whiteout": [
            tar(directory("d"), directory("d/e"), file("d/e/f")),
            tar(file(".wh.d")),
            tar(file("d/e/g")),
        ],
        "implied below a file": [
            tar(directory("d"), directory("d/e")),
            tar(file("d")),
            tar(file("d/e/f")),
        ],
        "implied through a circle": [
            tar(symlink("d", "e"), symlink("e", "d")),
            tar(file("d/e/f")),
        ],
    }


def stricter() -> Mapping[str, bytes]:
    """Layers that some containerd takes and sealing refuses, because the result would not be exact.

    Device numbers that containerd before 2.4 cuts, and that mkfs.erofs mangles; access control
    lists, whose mask follows later changes of mode; paths that fit in PATH_MAX on one engine only.
    """
    acl = bytes.fromhex(
        "02000000 01000600ffffffff 04000400ffffffff 10000600ffffffff 20000000ffffffff"
    )
    return {
        "device out of range": tar(maker.entry("d", maker.CHAR, major=maker.base256(2**40, 8))),
        "negative device": tar(maker.entry("d", maker.CHAR, major=maker.base256(-1, 8))),
        "large minor": tar(maker.entry("d", maker.BLOCK, minor=0x80000)),
        "access control list": tar(xattrs({"system.posix_acl_access": acl}), file("f")),
        "attribute of another system": tar(xattrs({"gnu.x": b"1"}), file("f")),
        "path at the limit": tar(
            pax({"path": "/".join(["p" * 200] * 19 + ["q" * 190])}), file("x")
        ),
    }
