"""From a plan to sealed layers: what is downloaded, sealed and removed again, in which order.

Stores, state and plans are real; downloading and sealing are stand-ins that note what they do.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pruneworld import World

from composeapps import fetch
from composeapps.errors import SourceError, SpaceError
from composeapps.oci import Descriptor, digest_of, hex_of
from composeapps.plan import make_plan


class Fetch:
    """A device that lacks all layers of a release."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = World(root, monkeypatch)
        self.device = self.world.device
        self.did: list[str] = []
        self.dependent: set[bytes] = set()
        self.fails = 0
        self.device.__dict__["source"] = SimpleNamespace(download=self._download)
        monkeypatch.setattr(fetch, "seal", self._seal)

    def _download(self, reference: Any, blob: Descriptor, into: Path, **_: Any) -> Path:
        path = into / hex_of(blob.digest)
        self.did.append("download")
        path.write_bytes(self.world.blobs[blob.digest])
        path.with_name(f"{path.name}.part").write_bytes(b"left by an earlier try")
        return path

    def _seal(self, source: Any, diff_id: str, lower: Any, output: Path, settings: Any) -> Any:
        with source() as blob:
            assert blob.read()
        if self.fails and self.did.count("seal") == self.fails:
            raise SourceError("power")
        self.did.append("seal")
        data = f"sealed {diff_id} on {len(lower)}".encode()
        output.write_bytes(data)
        dependent = diff_id in {digest_of(tar) for tar in self.dependent}
        return SimpleNamespace(digest=digest_of(data), chain_dependent=dependent)

    def run(self, apps: dict[str, dict[str, list[bytes]]]) -> None:
        made = {name: self.world.app(images) for name, images in apps.items()}
        digest = self.world.release(made)
        self.world.store_documents()
        self.again(digest)

    def again(self, digest: str) -> None:
        self.digest = digest
        plan = make_plan(self.device, digest, online=False)
        fetch.fetch_layers(self.device, plan, lambda *_: None)
        assert fetch.missing(self.device, plan) == []

    def left(self) -> list[str]:
        return [path.name for path in self.device.ingest.iterdir()]


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Fetch(tmp_path, monkeypatch)
    with made.device.writer("fetch"):
        yield made


def test_nothing_is_kept_twice(one: Fetch) -> None:
    one.run({"web": {"a": [b"base", b"a"], "b": [b"base", b"b"]}})
    assert one.did.count("download") == one.did.count("seal") == 3
    assert one.left() == []
    one.again(one.digest)
    assert len(one.did) == 6, "nothing is missing any more"


def test_a_layer_that_depends_on_those_below_is_sealed_for_each_and_downloaded_once(
    one: Fetch,
) -> None:
    one.dependent = {b"top"}
    one.run({"web": {"a": [b"one", b"top"], "b": [b"two", b"top"]}})
    assert one.did.count("download") == 3
    assert one.did.count("seal") == 4
    assert one.left() == []


def test_what_was_sealed_before_an_interruption_stays_sealed(one: Fetch) -> None:
    one.fails = 2
    with pytest.raises(SourceError):
        one.run({"web": {"a": [b"1", b"2", b"3", b"4"]}})
    assert len(list(one.device.stores.data.all_layers())) == 2
    one.fails = 0
    one.did.clear()
    one.again(one.digest)
    assert one.did.count("seal") == 2
    assert one.left() == []


def test_what_has_no_chance_to_end_is_not_begun(
    one: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "free_bytes", lambda path: 1000)
    with pytest.raises(SpaceError, match=r"needs about .* bytes in .*, 1000 are free"):
        one.run({"web": {"a": [b"base"]}})
    assert one.did == []
