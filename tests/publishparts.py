"""What the tests of the maker's side as a whole share."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from blobs import Blobs, member, tar
from stock import write

from composeapps.publish import cli

ARM64 = {"os": "linux", "architecture": "arm64"}
AMD = ("--platform", "linux/amd64")
BASE = tar(member("bin", type=b"5", mode=0o755), member("bin/tool", os.urandom(50_000)))
TOP = {name: tar(member(f"app-{name}", name.encode())) for name in ("web", "db")}


class Maker:
    """A maker's machine: keys, repository, cache, projects, and the command in this process."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.site = directory / "site"
        self.keys = directory / "keys"
        self.cache = ("--cache", directory / "cache")
        self._capsys = capsys

    def run(self, *words: object, code: int = 0) -> str:
        """Run a command; return its result, or what it said where it has to fail."""
        self._capsys.readouterr()
        found = cli.main([str(word) for word in words])
        self.said = self._capsys.readouterr()
        assert found == code, self.said.err
        assert "Traceback" not in self.said.err
        return self.said.out if code == 0 else self.said.err

    def json(self, *words: object) -> Any:
        """Run a command with --json and return what it printed."""
        return json.loads(self.run(*words, "--json"))

    def init(self) -> None:
        """Make the repository with a channel ``stable``."""
        self.run("init", self.site, "--keys", self.keys, "--no-password")

    def release(self, *apps: str, code: int = 0, more: tuple[object, ...] = ()) -> str:
        """Sign a release."""
        sign = ("--keys", self.keys)
        return self.run("release", self.site, "stable", *apps, *sign, *self.cache, *more, code=code)

    def signed(self) -> dict[str, Any]:
        """Return the newest release document."""
        paths = (self.site / "targets" / "stable").glob("*.json")
        documents = [json.loads(path.read_bytes()) for path in paths]
        found: dict[str, Any] = max(documents, key=lambda value: int(value["version"]))
        return found


def images(blobs: Blobs) -> dict[str, dict[str, Any]]:
    """Add two images that share a layer, for two platforms, with attestations."""
    found = {}
    for name, top in TOP.items():
        attestation = blobs.image(
            [b"{}"], {"os": "unknown", "architecture": "unknown"}, layer_type="application/json"
        )
        entries = [blobs.image([BASE, top]), blobs.image([BASE, top], ARM64), attestation]
        found[name] = blobs.index(entries)
    return found


def project(directory: Path, registry: str, **more: str) -> Path:
    """Write a project with two services and a file."""
    text = f"""
services:
  web: {{image: "{registry}/web:1", volumes: ["./conf:/conf:ro"], depends_on: [db]}}
  db: {{image: "{registry}/db:1"}}
"""
    return write(directory, {"compose.yaml": text, "conf/a": "a", **more})


def tree_hash(directory: Path) -> str:
    """Return a hash over names, kinds, modes and contents of a tree."""
    hasher = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        mode = path.lstat().st_mode
        hasher.update(f"{path.relative_to(directory)} {mode:o}\n".encode())
        if path.is_file():
            hasher.update(path.read_bytes())
    return hasher.hexdigest()
