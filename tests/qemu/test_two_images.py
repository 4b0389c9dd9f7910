"""The image of ``qemu/`` and the one that bitbake built hold the same: files, modes, links, apps.

Both are unpacked and read; what one has and the other has not is listed here, with its reason.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import vmworld
import yoctodevice

import devicetree
import image

pytestmark = pytest.mark.skipif(
    not (yoctodevice.DIRECTORY / "root.erofs").exists(),
    reason=f"no image of bitbake's in {yoctodevice.DIRECTORY}: make yocto builds one",
)
SYSTEM = Path(__file__).resolve().parents[2] / "agent" / "system"
UNITS = "usr/lib/systemd/system"
FACTORY = "usr/share/composeapps/factory"
#: Only in what bitbake built: fstab mounts the data partition in the other image; presets that
#: openembedded-core's systemd.bbclass writes.
ONLY_BITBAKE = {
    f"{UNITS}/var.mount",
    "etc/systemd/system/local-fs.target.requires/var.mount",
    "usr/lib/systemd/system-preset/98-composeapps.preset",
    "usr/lib/systemd/system-preset/98-composeapps-data.preset",
}
#: Only in the other: a list of Debian's packages, for which bitbake has manifests and an SBOM;
#: where its other slot is seen, which in a Yocto product is said by what updates the slots.
ONLY_OTHER = {"usr/share/composeapps/packages", "etc/composeapps/conf.d/slots.toml"}
#: A product's own: what it follows and where from.
SETTINGS = "etc/composeapps/composeapps.toml"


@dataclass(frozen=True)
class Entry:
    """What is compared of a file, or of a link's target."""

    mode: int
    content: bytes


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return both root file systems, unpacked."""
    device = yoctodevice.directory()
    settings = vmworld.SETTINGS + vmworld.QUIET
    other = image.root_image(image.Inputs(device / "factory", settings=settings))
    found = {"bitbake": device / "root.erofs", "other": other}
    return {name: unpack(path, tmp_path_factory.mktemp(name)) for name, path in found.items()}


def unpack(root: Path, place: Path) -> Path:
    """Unpack an EROFS image with the device tree's own tool."""
    tools = devicetree.device_tree() / "root"
    loader = next(tools.glob("usr/lib*/ld-linux-*.so.*"))
    libraries = ":".join(str(path) for path in sorted(tools.glob("usr/lib/*-linux-gnu*")))
    command = [str(loader), "--library-path", libraries, str(tools / "usr/bin/fsck.erofs")]
    command += [f"--extract={place}", "--force", "--overwrite", "--preserve-perms", str(root)]
    subprocess.run(command, check=True, capture_output=True)
    return place


def entries(root: Path, pattern: str) -> dict[str, Entry]:
    """Return files and links that match, by path."""
    found = {}
    for path in root.glob(pattern):
        if path.is_symlink():
            # With merged /usr both are one.
            target = os.readlink(path).removeprefix("/usr")
            found[str(path.relative_to(root))] = Entry(0o777, target.encode())
        elif path.is_file():
            mode = path.stat().st_mode & 0o7777
            found[str(path.relative_to(root))] = Entry(mode, path.read_bytes())
    return found


def own(root: Path) -> dict[str, Entry]:
    """Return all that is ours outside of Python's directories and the factory store."""
    found: dict[str, Entry] = {}
    for pattern in ("etc", "usr/lib/composeapps", "usr/lib/systemd", "usr/lib/tmpfiles.d"):
        found |= entries(root, f"{pattern}/**/*composeapps*")
        found |= entries(root, f"{pattern}/**/*composeapps*/**/*")
    found |= entries(root, "usr/lib/composeapps/*") | entries(root, "usr/share/composeapps/*")
    found |= entries(root, f"{UNITS}/var.mount") | entries(root, "etc/systemd/**/var.moun?")
    for name in ("etc/docker/daemon.json", "etc/containerd/config.toml"):
        found |= entries(root, name)
    return found


def test_system_files_are_the_same_and_none_is_missing(roots: dict[str, Path]) -> None:
    bitbake, other = own(roots["bitbake"]), own(roots["other"])
    step = {
        str(path.relative_to(SYSTEM / "files"))
        for path in (SYSTEM / "files").rglob("*")
        if path.is_file()
    }
    assert step <= bitbake.keys() and step <= other.keys()
    assert bitbake.keys() - other.keys() == ONLY_BITBAKE
    assert other.keys() - bitbake.keys() == ONLY_OTHER
    shared = bitbake.keys() & other.keys() - {SETTINGS}
    assert {name for name in shared if bitbake[name] != other[name]} == set()


def test_the_agent_is_the_same(roots: dict[str, Path]) -> None:
    found = []
    for root in roots.values():
        (place,) = root.glob("usr/**/*-packages/composeapps")
        found.append(entries(place, "**/*.py"))
    assert found[0] == found[1] and len(found[0]) > 50


def test_the_factory_store_is_the_same_byte_for_byte(roots: dict[str, Path]) -> None:
    bitbake, other = (entries(root, f"{FACTORY}/**/*") for root in roots.values())
    assert bitbake == other
    size = sum(len(entry.content) for entry in bitbake.values())
    layers = [name for name in bitbake if "/layers/" in name]
    print(f"the factory store has {size} bytes, {len(layers)} sealed layers")


def test_the_engine_does_not_wait_for_a_network(roots: dict[str, Path]) -> None:
    name = "systemd-networkd-wait-online.service"
    for root in roots.values():
        units = root / "etc/systemd/system"
        masked = (units / name).is_symlink() and os.readlink(units / name) == "/dev/null"
        assert masked or not (units / "network-online.target.wants" / name).is_symlink()
