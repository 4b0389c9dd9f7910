"""A device with releases in its stores, for tests of what is kept and what would change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from blobs import LINUX, Blobs

from composeapps import config
from composeapps.device import Device
from composeapps.oci import digest_of
from composeapps.plan import make_plan
from composeapps.release import App, Release

COMPOSE = """#!/bin/sh
# A stand-in for Compose: prints the file that --file names.
while [ $# -gt 0 ]; do [ "$1" = --file ] && cat "$2"; shift; done
"""
#: The same, of a later version that refuses the apps with a note.
REFUSES = """#!/bin/sh
while [ $# -gt 0 ]; do
    if [ "$1" = --file ]; then
        grep -q '"x-note": "{note}"' "$2" && {{ echo "{note} is not supported" >&2; exit 1; }}
        cat "$2"
    fi
    shift
done
"""

CTR = """#!/bin/sh
# A stand-in for containerd: notes what it is asked, knows the contents of a directory.
shift 4
echo "$*" >> {root}/asked
case "$*" in
"snapshots --snapshotter overlayfs ls") echo "KEY PARENT KIND"; cat {root}/snapshots ;;
"content get "*) exec cat "{root}/content/$3" ;;
esac
"""


class World:
    """A device in a directory, and releases to put on it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        for name in ("bin", "content", "run"):
            (root / name).mkdir()
        (root / "snapshots").write_text("")
        for name, text in (("docker-compose", COMPOSE), ("ctr", CTR.format(root=root))):
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{root}/bin", prepend=":")
        paths = {name: str(root / name) for name in ("data", "run", "factory", "root")}
        engine = {"docker": f"unix://{root}/docker.sock"}
        device = {"platform": "linux/amd64", "id": "test"}
        self.device = Device(
            config.parse({"paths": paths, "engine": engine, "device": device}, "test")
        )
        self.blobs = Blobs()
        self.versions = 0

    @property
    def store(self) -> Path:
        return self.device.stores.data.root

    def app(self, layers: Mapping[str, list[bytes]], note: str = "") -> App:
        """Make an app: images by service, each of a few layers."""
        services = {}
        for name, parts in layers.items():
            descriptor = self.blobs.image(parts, LINUX)
            services[name] = {"image": f"r.test/{name}@{descriptor['digest']}"}
        model = {"services": services, "x-note": note}
        artifact = self.blobs.artifact([self.blobs.compose_file(json.dumps(model))])
        return App(f"r.test/app@{artifact['digest']}", {})

    def refuse(self, note: str) -> None:
        """Replace Compose by one that cannot read the apps with this note."""
        (self.root / "bin" / "docker-compose").write_text(REFUSES.format(note=note))

    def release(self, apps: Mapping[str, App], *, channel: str = "stable") -> str:
        """Make a release and note it as pending; nothing of it is stored."""
        self.versions += 1
        document = Release(channel, self.versions, dict(apps)).to_bytes()
        digest = digest_of(document)
        self.blobs[digest] = document
        self.device.state.add_release(digest, channel, self.versions, document)
        self.device.stores.data.put_blob(document)
        return digest

    def store_documents(self) -> None:
        """Store every document that was made, and no layer."""
        for data in self.blobs.values():
            if data[:2] != b"\x1f\x8b" and data != b"{}":
                self.device.stores.data.put_blob(data)

    def seal(self, digest: str) -> list[Path]:
        """Store all that a release needs, its layers as files that stand for sealed ones."""
        self.store_documents()
        paths = []
        for _, layer in make_plan(self.device, digest, online=False).chains.values():
            found = self.device.stores.find_layer(layer.diff_id, layer.chain_id)
            if found is None:
                data = f"sealed {layer.diff_id}".encode()
                file = self.store / "new"
                file.write_bytes(data)
                found = self.device.stores.data.adopt_layer(
                    file, layer.diff_id, "", digest_of(data)
                )
            paths.append(found.path)
        return paths

    def bring(self, digest: str, *states: str) -> None:
        for state in states:
            self.device.state.advance(digest, state)

    def commit(self, digest: str) -> list[Path]:
        """Make a release the current one, with all that it needs."""
        paths = self.seal(digest)
        self.bring(digest, "fetching", "fetched", "installing", "starting")
        self.device.state.commit(digest, "committed", {})
        return paths

    def snapshot(self) -> set[str]:
        """Return the names of all that the device holds."""
        found = self.device.data.rglob("*")
        return {str(path.relative_to(self.device.data)) for path in found if path.is_file()}
