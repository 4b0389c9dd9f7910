"""The kas files: every combination is read by kas itself, and says what its files say.

What is not tried here: a checkout, which needs the network, and so ``kas build``. ``make yocto``
does the rest where the repositories are at hand.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
KAS = ROOT / "kas"
MACHINES = ("qemux86-64", "qemuarm64", "raspberrypi4-64")
RELEASES = ("", "scarthgap", "wrynose")
OVERLAYS = ((), ("apps",), ("dev",), ("apps", "dev"))
#: BitBake's branch of each release (the Yocto Project's release notes).
BITBAKE = {"scarthgap": "2.8", "wrynose": "2.18"}
#: Steps that would fetch or check out.
SKIPPED = ("repos_checkout", "repo_setup_loop", "finish_setup_repos")


def dump(work: Path, *names: str) -> Any:
    """Return what kas makes of files, as one configuration."""
    files = ":".join(f"kas/{name}.yml" for name in names if name)
    command = [sys.executable, "-m", "kas", "dump", "--format", "json", files]
    for step in SKIPPED:
        command += ["--skip", step]
    environment = {**os.environ, "KAS_WORK_DIR": str(work)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"WARNING|ERROR", done.stderr), done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("machine", "release", "overlays"), list(itertools.product(MACHINES, RELEASES, OVERLAYS))
)
def test_every_combination(
    machine: str, release: str, overlays: tuple[str, ...], tmp_path: Path
) -> None:
    found = dump(tmp_path, machine, release, *overlays)
    assert (found["machine"], found["target"]) == (machine, "composeapps-image")
    series = release or "wrynose"
    lock = yaml.safe_load((KAS / f"{series}.lock.yml").read_text())["overrides"]["repos"]
    for name, repo in found["repos"].items():
        if "url" not in repo:
            assert name == "composeapps" and list(repo["layers"]) == ["meta-composeapps"]
            continue
        own = found["overrides"]["repos"][name]
        assert own["commit"] == lock[name]["commit"]
        branch = own.get("branch", repo["branch"])
        assert branch == (BITBAKE[series] if name == "bitbake" else series)
        assert repo["path"] == f"layers/{name}"
    assert ("meta-raspberrypi" in found["repos"]) == machine.startswith("raspberrypi")
    assert ("COMPOSEAPPS_PRELOAD" in found["env"]) == ("apps" in overlays)
    assert ("dev" in found["local_conf_header"]) == ("dev" in overlays)


def test_all_files_are_in_a_combination() -> None:
    names = {path.name.removesuffix(".yml") for path in KAS.glob("*.yml")}
    used = {*MACHINES, *filter(None, RELEASES), "apps", "dev", "base", "raspberrypi"}
    assert names == used | {f"{name}.lock" for name in RELEASES if name}


def test_locked_commits_are_whole() -> None:
    for path in KAS.glob("*.lock.yml"):
        for repo in yaml.safe_load(path.read_text())["overrides"]["repos"].values():
            assert re.fullmatch(r"[0-9a-f]{40}", repo["commit"])
