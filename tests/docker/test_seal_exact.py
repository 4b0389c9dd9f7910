"""Sealed layers against the engine's own: the same images, loaded by it and sealed by us.

The engine unpacks each image itself; every layer's directory is then compared with the mounted
sealed layer: names, types, contents, owners, modes, times to the nanosecond, extended attributes,
devices, link targets, hard-link groups. Where the engine refuses a layer, sealing has to as well.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import layers as maker
import odd
import pytest
import random_layers
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from layers import Image
from random_layers import Entry
from seed import SEED

from testbed import Testbed, environment

HERE = Path(__file__).resolve().parent
#: How layers come packed, by turns.
PACKINGS: tuple[tuple[str, Callable[[bytes], bytes], bool], ...] = (
    (maker.OCI, maker.gzipped, True),
    (maker.OCI, maker.zstd, False),
    (maker.DOCKER, maker.gzipped, True),
    (maker.OCI, maker.plain, False),
    (maker.OCI, maker.gzipped_in_members, False),
    (maker.DOCKER, maker.plain, False),
    (maker.OCI, maker.zstd_in_frames, True),
)
REFUSED = odd.refused()
#: Random images; each costs the engine about a tenth of a second.
EXAMPLES = int(os.environ.get("EXAMPLES") or 300)
tally: Counter[str] = Counter()


class Judge:
    """The process beside the engine that loads, seals and compares."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.program = (bed.path("/bin/busybox")).read_bytes()
        shutil.copy(HERE / "seal_judge.py", bed.work / "seal_judge.py")
        self.process = subprocess.Popen(
            bed.argv("python3", "/run/work/seal_judge.py"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            env=environment(),
            text=True,
        )
        self.count = itertools.count()
        self.base = odd.base(self.program)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and return its answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            pytest.exit("the judge beside the engine ended; what it said is above", 1)
        result: dict[str, Any] = json.loads(answer)
        return result

    def judge(self, image: Image, merged: bool = False) -> dict[str, Any]:
        """Hand an image to both sides."""
        directory = self.bed.work / f"image{next(self.count)}"
        directory.mkdir()
        inside = Path("/run/work") / directory.name
        (directory / "archive.tar").write_bytes(image.archive())
        layers = []
        for number, (blob, diff_id) in enumerate(zip(image.blobs, image.diff_ids, strict=True)):
            (directory / str(number)).write_bytes(blob)
            layers.append({"blob": str(inside / str(number)), "diff_id": diff_id})
        answer = self.ask(
            name=image.name, archive=str(inside / "archive.tar"), layers=layers, merged=merged
        )
        shutil.rmtree(directory)
        return answer

    def image(self, layers: Sequence[bytes], has_base: bool = True, **fields: Any) -> Image:
        """Return an image of its own name."""
        number = next(self.count)
        style, pack, index = PACKINGS[number % len(PACKINGS)]
        settings: dict[str, Any] = {"style": style, "pack": pack, "index": index} | fields
        below = [self.base] if has_base else []
        return Image(f"example.org/odd:{number}", [*below, *layers], **settings)


@pytest.fixture(scope="module")
def judge(testbed: Testbed) -> Iterator[Judge]:
    """Start the judge beside this module's engine."""
    judge = Judge(testbed)
    # An image that holds the base layer, so that the engine never forgets that one.
    assert judge.judge(judge.image([]))["engine"] == ""
    yield judge
    assert judge.process.stdin is not None
    judge.process.stdin.close()
    judge.process.wait()


@pytest.mark.parametrize("name", odd.IMAGES)
def test_same_tree(judge: Judge, name: str) -> None:
    """Every layer of an image is the engine's own, and so is the whole chain."""
    has_base = not name.startswith("first")
    image = judge.image(odd.IMAGES[name], has_base)
    answer = judge.judge(image, merged=has_base and len(image.layers) < 100)
    assert answer["engine"] == ""
    assert answer["sealed"] == ""
    assert answer["differences"] == []
    assert answer["layers"] == len(image.layers)


@pytest.mark.parametrize("name", REFUSED)
def test_same_refusal(judge: Judge, name: str) -> None:
    """What the engine refuses is refused, with a sentence, and nothing is left behind."""
    answer = judge.judge(judge.image([REFUSED[name]]))
    assert answer["engine"] != ""
    assert answer["sealed"].startswith("SealError: layer sha256:")
    assert answer["differences"] == []


@pytest.mark.parametrize("name", odd.refused_first())
def test_same_refusal_of_chains(judge: Judge, name: str) -> None:
    """As above, for what only the first layer of a chain or the layers below bring about."""
    image = judge.image(odd.refused_first()[name], has_base=False)
    answer = judge.judge(image)
    assert answer["engine"] != ""
    assert answer["sealed"].startswith("SealError: layer sha256:")


@pytest.mark.parametrize("name", odd.stricter())
def test_stricter_than_the_engine(judge: Judge, name: str) -> None:
    """What the engine may take and a sealed layer cannot hold exactly is refused."""
    answer = judge.judge(judge.image([odd.stricter()[name]]))
    assert answer["sealed"].startswith("SealError: layer sha256:")


def test_a_diff_id_that_lies(judge: Judge) -> None:
    """The uncompressed bytes have to be those that the config names."""
    layers = [judge.base, maker.tar(maker.file("f"))]
    image = judge.image(layers[1:], diff_ids=[maker.digest(layers[0]), maker.digest(b"other")])
    answer = judge.judge(image)
    assert answer["engine"] != ""
    assert answer["sealed"].startswith("IntegrityError: layer sha256:")


def _cut(data: bytes) -> bytes:
    return maker.gzipped(data)[:-20]


def _flipped(data: bytes) -> bytes:
    packed = bytearray(maker.gzipped(data))
    packed[-6] ^= 1
    return bytes(packed)


def _trailing(data: bytes) -> bytes:
    return maker.gzipped(data) + b"trailing garbage"


def _cut_zstd(data: bytes) -> bytes:
    return maker.zstd(data)[:-20]


def _flipped_zstd(data: bytes) -> bytes:
    packed = bytearray(maker.zstd(data))
    packed[-2] ^= 1
    return bytes(packed)


def _trailing_zstd(data: bytes) -> bytes:
    return maker.zstd(data) + b"trailing garbage"


@pytest.mark.parametrize(
    "pack", [_cut, _flipped, _trailing, _cut_zstd, _flipped_zstd, _trailing_zstd]
)
def test_damaged_compression(judge: Judge, pack: Callable[[bytes], bytes]) -> None:
    """A blob whose compressed stream is damaged gives no layer, on either side."""
    maker.MEDIA_TYPES[maker.OCI, pack] = (
        f"{maker.OCI}.layer.v1.tar+{'zstd' if 'zstd' in pack.__name__ else 'gzip'}"
    )
    image = judge.image([maker.tar(maker.file("f", b"x" * 100_000))], style=maker.OCI, pack=pack)
    answer = judge.judge(image)
    assert answer["engine"] != ""
    assert answer["sealed"].startswith("IntegrityError: layer sha256:")


@pytest.mark.parametrize("room", [16 * 2**20, 0])
def test_no_room(judge: Judge, room: int) -> None:
    """A full file system is told as such, whether we or mkfs.erofs meet it first."""
    noise = random.Random(5).randbytes(2**20)
    layer = maker.tar(*(maker.file(f"{number}", noise) for number in range(45)))
    path = judge.bed.work / "large"
    path.write_bytes(layer)
    answer = judge.ask(room=room, blob="/run/work/large", diff_id=maker.digest(layer))
    path.unlink()
    assert answer["error"].startswith("SpaceError: ")
    assert answer["left"] == []


@seed(SEED)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(st.lists(random_layers.layers, min_size=1, max_size=2), st.booleans())
def test_random_layers(judge: Judge, layers: list[list[Entry]], has_base: bool) -> None:
    """Both sides refuse the same layers, and agree about every other tree."""
    # Each layer is new to the engine, which may forget or keep those of an image it refused.
    archives = [
        maker.tar(*(entry.data for entry in layer), maker.file(f"unique {next(judge.count)}"))
        for layer in layers
    ]
    answer = judge.judge(judge.image(archives, has_base))
    tally["refused" if answer["engine"] else "same"] += 1
    assert answer["differences"] == []
    assert bool(answer["engine"]) == bool(answer["sealed"]), answer


def test_random_layers_were_not_all_refused(judge: Judge) -> None:
    """The test before this one compared something."""
    judge.ask(forget=True)
    print(f"random images: {dict(tally)}")
    assert tally["same"] > EXAMPLES // 5, tally
