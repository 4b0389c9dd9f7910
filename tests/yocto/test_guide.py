"""The commands and files of docs/yocto.md, "From zero to a device", in the order of the document.

What is filled in: images come from a layout and the app is written beside the metadata, since
there is neither a registry nor Docker Hub; kas checks nothing out. What builds, boots and flashes
is not run here: ``make yocto`` and ``IMAGE=yocto`` do what can be done without sources and a board.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from documents import ROOT, Desk, blocks, commands, section
from fakebuild import FakeBuild

GUIDE = (ROOT / "docs/yocto.md").read_text()
#: Of the demo's layout; Docker Hub's is not to be had.
IMAGE = "demo.test/web:1"
OWN = "--images images/ --output repository/oci/"
#: What kas would fetch.
SKIP = "--skip repos_checkout --skip repo_setup_loop --skip finish_setup_repos"
#: Commands of the guide that are not run here, and why.
LEFT_OUT = {
    "git clone": "this checkout is what is tested",
    "export PATH": "every command has it",
    "kas build": "there are no sources here",
    "make yocto": "has layers to build with, and is run by itself",
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, demo_layout: Path) -> Desk:
    """Return a desk in the middle of a checkout."""
    desk = Desk(tmp_path_factory.mktemp("guide"), demo_layout)
    shutil.copytree(ROOT / "kas", desk.place / "kas")
    subprocess.run(["git", "init", "-q", str(desk.place)], check=True)
    return desk


def written(desk: Desk, text: str, directory: str) -> list[Path]:
    """Write the files of a section's blocks, which their first lines name."""
    found = []
    for block in [*blocks(text, "bitbake"), *blocks(text, "yaml")]:
        first, _, rest = block.partition("\n")
        path = desk.place / directory / first.removeprefix("# ").split(":")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rest)
        found.append(path)
    return found


def ran(desk: Desk, text: str, digest: str = "") -> str:
    """Run the commands of a section, exported variables kept; return the last digest printed."""
    exported: list[str] = []
    for command in (line for block in blocks(text, "sh") for line in commands(block)):
        if any(command.startswith(name) for name in LEFT_OUT):
            continue
        line = command.replace("sha256:…", digest).replace(",linux/arm64", "")
        if line.startswith("composeapps-publish app"):
            line = f"{line} {OWN}"
        assert "…" not in line, f"{command}: nothing has printed a digest before"
        line = line.replace("kas dump", f"kas dump {SKIP}")
        printed = desk.run(" && ".join([*exported, line]), ".venv")
        if line.startswith("export "):
            exported.append(line)
        if found := re.search(r"registry\.example/apps/hello@(sha256:[0-9a-f]{64})", printed):
            digest = found[1]
    return digest


def test_from_zero_to_the_first_update(desk: Desk) -> None:
    ran(desk, section(GUIDE, "1. The tools"))
    (app,) = written(desk, section(GUIDE, "2. An app"), "")
    text = app.read_text().replace("docker.io/library/nginx:1.29", IMAGE)
    app.write_text(text)
    digest = ran(desk, section(GUIDE, "3. Keys"))
    assert digest

    layer = section(GUIDE, "4. Your layer")
    names = {path.name for path in written(desk, layer, "meta-hello")}
    assert names == {"layer.conf", "hello.conf", "kas.yml"}
    ran(desk, layer)
    parses(desk, digest)

    ran(desk, section(GUIDE, "5. Build"), digest)
    app.write_text(text.replace("5s", "6s"))
    first_update = blocks(section(GUIDE, "8. The first update"), "sh")[0]
    assert ran(desk, f"```sh\n{first_update}```") != digest


def parses(desk: Desk, digest: str) -> None:
    """Have bitbake's library read the guide's layer and the image, its apps named in it."""
    build = FakeBuild(desk.place / "build", layers=[desk.place / "meta-hello"])
    distro = desk.place / "meta-hello/conf/distro/hello.conf"
    distro.write_text(distro.read_text().replace("sha256:…", digest))
    (build.directory / "conf/local.conf").write_text("require conf/distro/hello.conf\n")
    done = build.run("parse")
    assert (done.code, done.errors) == (0, []), done.said
    assert [name for name, recipe in done.value.items() if recipe["skipped"]] == []
    assert done.value["composeapps-image.bb"]["COMPOSEAPPS_KEY"]
