"""Both images get their system files from one step, ``agent/system/install``; what each adds.

Here the recipe's ``do_install`` runs by bitbake's own library. ``tests/qemu/test_two_images.py``
compares the images themselves, where bitbake has built one.
"""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

from fakebuild import LAYER, ROOT, FakeBuild

import image

UNITS = "usr/lib/systemd/system"
#: In the other image a line of fstab.
MOUNT = f"{UNITS}/var.mount"


def listed(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of all files below a directory."""
    files = [path for path in root.rglob("*") if not path.is_dir()]
    return {
        str(path.relative_to(root)): (path.lstat().st_mode & 0o7777, path.read_bytes())
        for path in files
    }


def test_the_recipe_installs_what_the_install_step_does_and_a_mount(tmp_path: Path) -> None:
    build = FakeBuild(tmp_path / "build")
    sources = build.directory / "tmp/work/composeapps-0.1.0-r0/sources"
    sources.mkdir(parents=True)
    (sources / "agent").symlink_to(ROOT / "agent")
    (sources / "var.mount").symlink_to(LAYER / "recipes-core/composeapps/files/var.mount")
    done = build.run("run", "composeapps_0", "do_install")
    assert (done.code, done.errors) == (0, []), done.said
    (own,) = build.directory.glob("tmp/work/composeapps-*/image")
    subprocess.run([ROOT / "agent/system/install", tmp_path / "step"], check=True)
    recipe, step = listed(own), listed(tmp_path / "step")
    mode, mount = recipe.pop(MOUNT)
    assert mode == 0o644 and mount
    assert recipe == step


def test_the_data_partition_is_mounted_alike() -> None:
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(LAYER / "recipes-core/composeapps/files/var.mount")
    (line,) = [line for line in image.FILES["etc/fstab"].splitlines() if " /var " in line]
    what, where, kind, options, *_ = line.split()
    assert unit["Mount"]["What"] == what.replace("PARTLABEL=", "/dev/disk/by-partlabel/")
    assert (unit["Mount"]["Where"], unit["Mount"]["Type"]) == (where, kind)
    own = {option for option in options.split(",") if not option.startswith("x-systemd.")}
    assert set(unit["Mount"]["Options"].split(",")) == own
    requires = options.partition("x-systemd.requires=")[2].partition(",")[0]
    assert unit["Unit"]["Requires"] == unit["Unit"]["After"] == requires
