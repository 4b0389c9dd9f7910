"""What damage does to the cache of trusted metadata, and what python-tuf has to offer."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from servers import StaticServer
from trustparts import tree
from tuf.ngclient import Updater
from tufworld import World, of, signer

from composeapps import tufclient
from composeapps.config import Settings, SourceSettings
from composeapps.errors import NotFoundError, StateError, TrustError
from composeapps.source import Source
from composeapps.trust import Trust


def cache_files(world: World) -> list[Path]:
    return sorted(path for path in world.cache.rglob("*") if path.is_file())


def damages(data: bytes) -> Iterator[bytes]:
    for length in (0, 1, len(data) // 2, len(data) - 1):
        yield data[:length]
    yield b"\0" * len(data)
    yield b"\xff\xfe garbage"
    yield b"[" * 100_000
    yield b"x" * 2_000_000
    yield data.replace(b"e", b"f")


def test_every_cache_file_torn_at_several_points(world: World) -> None:
    world.rotate("root")
    world.check()
    files = cache_files(world)
    names = {path.name for path in files}
    assert {"timestamp.json", "stable.json", "2.root.json", "etag.json", "release.json"} <= names
    good = {path: path.read_bytes() for path in files}
    for path in files:
        for bad in damages(good[path]):
            path.write_bytes(bad)
            assert world.check().release.version == 1, (path, bad[:20])
            # Mended as well as survived.
            assert world.trust().load("stable").release.version == 1
            restore(world, good)


def restore(world: World, good: dict[Path, bytes]) -> None:
    shutil.rmtree(world.cache)
    for path, data in good.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    sets = world.cache / "sets"
    (world.cache / "current").symlink_to(f"sets/{next(sets.iterdir()).name}")


def test_every_cache_file_and_directory_replaced_by_something_else(world: World) -> None:
    world.rotate("root")
    world.check()
    good = {path: path.read_bytes() for path in cache_files(world)}
    directories = [world.cache, *(path for path in world.cache.rglob("*") if path.is_dir())]
    for path in [*good, *(path for path in directories if not path.is_symlink())]:
        for kind in ("missing", "directory", "file", "dangling"):
            restore(world, good)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            if kind == "directory":
                path.mkdir()
                (path / "something").write_text("in it")
            elif kind == "file":
                path.write_text("garbage")
            elif kind == "dangling":
                path.symlink_to("/nowhere/at/all")
            assert world.check().release.version == 1, (path, kind)
            assert world.trust().load("stable").release.version == 1


@pytest.mark.parametrize("kind", ["missing", "directory", "file", "dangling"])
def test_the_link_replaced_by_something_else(world: World, kind: str) -> None:
    world.check()
    link = world.cache / "current"
    link.unlink()
    if kind == "directory":
        link.mkdir()
        (link / "something").write_text("in it")
    elif kind == "file":
        link.write_text("garbage")
    elif kind == "dangling":
        link.symlink_to("sets/99")
    assert world.check().release.version == 1
    assert world.trust().load("stable").release.version == 1


def test_a_cache_that_cannot_be_written_says_so(world: World) -> None:
    world.cache.parent.mkdir()
    world.cache.write_text("a file")
    with pytest.raises(StateError, match="cannot be written"):
        world.check(directory=world.cache / "below")


def test_a_failed_look_keeps_the_old_set(world: World) -> None:
    world.check()
    world.release(letter="b")
    world.server.missing.add(f"metadata/{world.metadata('snapshot').signed.version}.snapshot.json")
    before = tree(world.cache)
    with pytest.raises(NotFoundError):
        world.check()
    assert tree(world.cache) == before
    assert world.trust().load("stable").release.version == 1
    world.server.missing.clear()
    assert world.check().release.version == 2


def test_a_failed_look_keeps_new_roots(world: World) -> None:
    world.check()
    world.rotate("root")
    world.release(letter="b")
    world.server.missing.add(f"metadata/{world.metadata('snapshot').signed.version}.snapshot.json")
    with pytest.raises(NotFoundError):
        world.check()
    assert (world.cache / "roots" / "2.root.json").exists()


def test_private_parts_of_python_tuf_that_are_used_are_there(world: World) -> None:
    assert "_trusted_set" in inspect.getsource(Updater.__init__)
    look = {
        "root": world.root,
        "held": tufclient.Held({}, {}, None),
        "where": tufclient.Where(
            "stable", "https://maker.example/metadata/", "https://maker.example/targets/"
        ),
        "fetch": lambda url, limit: world.server.get(url, limit, "").body,
    }
    valid = world.time + timedelta(days=1)
    tufclient.look(**look, reference=valid, roots={})  # type: ignore[arg-type]
    late = world.time + timedelta(days=100)
    with pytest.raises(tufclient.ExpiredError):
        tufclient.look(**look, reference=late, roots={})  # type: ignore[arg-type]


def test_a_python_tuf_without_them_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Updater):
        @property
        def _trusted_set(self) -> Any:
            return None

        @_trusted_set.setter
        def _trusted_set(self, value: object) -> None:
            self.__dict__["renamed"] = value

        def _persist_root(self, version: int, data: bytes) -> None:
            pass

        def _update_root_symlink(self) -> None:
            pass

    monkeypatch.setattr(tufclient, "Updater", Other)
    with pytest.raises(TrustError):
        world.check()


def test_threshold_keys_of_ecdsa_work_too(tmp_path: Path) -> None:
    from securesystemslib.signer import CryptoSigner

    world = World(tmp_path)
    world.keys["stable"] = [CryptoSigner.generate_ecdsa(), signer()]
    keys = of(*world.keys["stable"], threshold=2)
    world.repository.add_channel("stable", world.online("targets", "stable"), keys)
    world.release()
    assert world.check().release.version == 1
    assert isinstance(world.trust(), Trust)


def test_over_a_web_server_a_look_with_nothing_new_is_one_small_request(world: World) -> None:
    with StaticServer(world.file("")) as server:
        source = Source(Settings(source=SourceSettings(url=server.url)))
        trust = world.trust(
            get=source.get, metadata_url=source.metadata_url, targets_url=source.targets_url
        )
        assert trust.check("stable").release.version == 1
        before = source.stats.received + source.stats.sent
        server.requests.clear()
        assert not trust.check("stable").changed
        assert len(server.requests) == 1
        assert source.stats.received + source.stats.sent - before < 1024
        world.release(letter="b")
        assert trust.check("stable").release.version == 2
        source.close()


def test_from_a_directory(world: World) -> None:
    source = Source(Settings(source=SourceSettings(url=world.file("").as_uri())))
    trust = world.trust(
        get=source.get, metadata_url=source.metadata_url, targets_url=source.targets_url
    )
    assert trust.check("stable").changed
    assert not trust.check("stable").changed
    world.rotate("root", "timestamp")
    assert not trust.check("stable").changed
    source.close()
