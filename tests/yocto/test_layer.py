"""meta-composeapps, read by bitbake's own library, and by oelint-adv.

The configuration around it is a fake (``fake-core``): OE's classes are empty here. What a build
with the real ones gives is in docs/yocto-check.md.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fakebuild import LAYER, ROOT, FakeBuild

from composeapps.errors import BusyError

PACKAGE = ROOT / "agent" / "composeapps"
#: OE's packages of Python's standard library (openembedded-core, python3-manifest.json, the same in
#: scarthgap and wrynose), by module; what is not named is in python3-core.
PACKAGES = {
    "python3-asyncio": "concurrent",
    "python3-compile": "filecmp",
    "python3-compression": "tarfile gzip zipfile",
    "python3-crypt": "hashlib hmac",
    "python3-ctypes": "ctypes",
    "python3-datetime": "datetime calendar",
    "python3-email": "email",
    "python3-fcntl": "fcntl",
    "python3-io": "socket ssl tempfile",
    "python3-json": "json",
    "python3-logging": "logging",
    "python3-math": "random",
    "python3-netclient": "base64 http uuid",
    "python3-numbers": "contextvars",
    "python3-shell": "shlex",
    "python3-sqlite3": "sqlite3",
    "python3-tomllib": "tomllib",
    "python3-unixadmin": "getpass",
    # Others.
    "python3-cryptography": "cryptography",
    "python3-docker": "docker",
    "python3-pyyaml": "yaml",
    "python3-requests": "requests",
    "python3-tuf": "tuf securesystemslib",
    "python3-urllib3": "urllib3",
    "python3-zstandard": "zstandard",
}
#: Rules of oelint-adv that this layer is not held to, each with its reason.
UNHELD = {
    "oelint.vars.homepageping": "asks the network",
    "oelint.task.noanonpython": "says what is wrong with a setting when recipes are parsed",
    "oelint.vars.noncoreoverride": "the append is only read with the layer's distro feature",
    "oelint.vars.fileextrapaths": "the agent lies beside the layer, outside of its directories",
    "oelint.vars.outofcontext": "the same",
    "oelint.var.filesoverride": "packages that have nothing by default",
    "oelint.vars.mispell.unknown": "variables of the layer's own",  # codespell:ignore mispell
    "oelint.vars.unpackdir": "scarthgap has no UNPACKDIR, and the recipe is for scarthgap",
    "oelint.var.licenseremotefile": "a recipe of settings has no remote file",
}


@pytest.fixture(params=["scarthgap", "wrynose"])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> FakeBuild:
    build = FakeBuild(tmp_path / "build", request.param)
    (tmp_path / "root.json").write_text("{}")
    build.configure({"COMPOSEAPPS_ROOT": str(tmp_path / "root.json")})
    return build


def test_recipes_parse_and_say_what_a_recipe_has_to(build: FakeBuild) -> None:
    done = build.run("parse")
    assert (done.code, done.errors) == (0, []), done.said
    assert [name for name, recipe in done.value.items() if recipe["skipped"]] == []
    for name, recipe in done.value.items():
        assert recipe["LICENSE"] and recipe["tasks"], name
        if "SRC_URI" in recipe and "://" in (recipe["SRC_URI"] or "") and "-image" not in name:
            assert re.search(r"md5=[0-9a-f]{32}", recipe["LIC_FILES_CHKSUM"]), name
    assert {"composeapps_0.1.0.bb", "composeapps_0.1.0.bb:native"} <= done.value.keys()


def test_what_scarthgap_lacks_is_there_and_only_there(tmp_path: Path) -> None:
    found = {}
    for series in ("scarthgap", "wrynose"):
        recipes = FakeBuild(tmp_path / series, series).run("parse").value
        found[series] = {name.partition("_")[0] for name in recipes}
    extra = {"erofs-utils", "python3-docker", "python3-zstandard"}
    assert found["scarthgap"] - found["wrynose"] == extra
    asleep = FakeBuild(tmp_path / "asleep", "scarthgap")
    asleep.configure({"DISTRO_FEATURES": "systemd usrmerge"})
    assert not extra & {name.partition("_")[0] for name in asleep.run("parse").value}


def test_appends_only_wake_up_with_the_distro_feature() -> None:
    condition = (
        r"^require \$\{@bb\.utils\.contains\('DISTRO_FEATURES', 'composeapps', '\S+', '', d\)\}$"
    )
    for path in LAYER.rglob("*.bbappend"):
        if "releases" in path.parts:
            continue  # the whole directory is asleep
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert len(lines) == 1 and re.match(condition, lines[0]), path


def test_every_import_has_a_package(build: FakeBuild) -> None:
    recipe = build.run("parse").value["composeapps_0.1.0.bb"]
    has = set(recipe["RDEPENDS"].split())
    modules = {module: name for name, several in PACKAGES.items() for module in several.split()}
    imported = set(imports(agent=True)) - {"composeapps"}
    assert imported <= {*modules, *sys.stdlib_module_names}
    needed = {modules[module] for module in imported if module in modules}
    assert needed - has == set()
    unused = (has & PACKAGES.keys()) - needed
    assert unused == set()


def test_the_image_has_its_own_layout_whatever_the_machine_brings(build: FakeBuild) -> None:
    build.configure({"WKS_FILE": "machine.wks"})
    layout = Path(build.run("parse").value["composeapps-image.bb"]["WKS_FILE"])
    assert layout.is_file() and layout.is_relative_to(LAYER)
    build.configure({"COMPOSEAPPS_WKS": "product.wks"})
    assert build.run("parse").value["composeapps-image.bb"]["WKS_FILE"] == "product.wks"


def test_the_ptest_package_holds_all_that_its_tests_import(tmp_path: Path) -> None:
    build = FakeBuild(tmp_path / "build")
    (build.directory / "classes" / "ptest.bbclass").write_text(
        'PTEST_ENABLED = "1"\nPTEST_PATH = "/ptest"\naddtask install_ptest\n'
    )
    work = build.directory / "tmp/work/composeapps-0.1.0-r0"
    (work / "image/ptest").mkdir(parents=True)
    for name in ("tests", "qemu/tree.py", "agent/pyproject.toml"):
        place = work / "sources" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, place)
    done = build.run("run", "composeapps_0", "do_install_ptest")
    assert (done.code, done.errors) == (0, []), done.said
    script = (LAYER / "recipes-core/composeapps/files/run-ptest").read_text()
    # The device's pytest has a plugin for what ptest prints; this one only looks for tests.
    only = "--collect-only -q -p no:xdist -p no:xdist.looponfail"
    script = script.replace("--automake", only).replace("python3", sys.executable)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "xdist.py").write_text("raise ImportError('a device has none')\n")
    (work / "image/ptest/run-ptest").write_text(script)
    ran = subprocess.run(
        ["sh", work / "image/ptest/run-ptest"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{hidden}:{ROOT / 'agent'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr


@cache
def imports(agent: bool) -> frozenset[str]:
    """Return what the agent's modules import, or those of the maker's side."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if ("publish" in path.parts) == agent:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    return frozenset(found)


def test_the_testimage_case_knows_who_is_at_work() -> None:
    case = (LAYER / "lib/oeqa/runtime/cases/composeapps.py").read_text()
    found = re.search(r"^BUSY, PATIENCE = (\d+),", case, re.MULTILINE)
    assert found and int(found[1]) == BusyError.exit_code


def test_checksums_of_the_own_licence_are_right() -> None:
    digest = hashlib.md5((ROOT / "LICENSE").read_bytes(), usedforsecurity=False).hexdigest()
    recipe = (LAYER / "recipes-core/composeapps/composeapps_0.1.0.bb").read_text()
    assert f"md5={digest}" in recipe
    assert (LAYER / "COPYING.MIT").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_version_is_the_agents() -> None:
    text = (ROOT / "agent" / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"', text, re.MULTILINE)
    assert version and (LAYER / f"recipes-core/composeapps/composeapps_{version[1]}.bb").is_file()


def test_readme_and_security_are_as_yocto_check_layer_wants_them() -> None:
    readme = (LAYER / "README.md").read_text()
    assert re.search("maintainer", readme, re.IGNORECASE) and re.search("patch", readme)
    assert re.search(r"[\w.]+@[\w.]+", readme)
    assert (LAYER / "SECURITY.md").stat().st_size


def sources() -> Iterator[Path]:
    """Yield what bitbake reads of the layer, less its configuration."""
    for pattern in ("*.bb", "*.bbappend", "*.bbclass", "*.inc"):
        yield from sorted(LAYER.rglob(pattern))


def test_oelint_finds_nothing() -> None:
    command = [sys.executable, "-m", "oelint_adv", "--quiet", "--release", "wrynose"]
    command += ["--hide", "info", "--jobs", "2"]
    for rule in UNHELD:
        command += ["--suppress", rule]
    # Newer Pythons warn of the linter's own code.
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, *map(str, sources())],
        cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def values(text: str) -> dict[str, Any]:
    """Return simple assignments of a layer.conf."""
    return dict(re.findall(r'^(\w+) \??= "([^"]*)"$', text, re.MULTILINE))


def test_layer_conf_names_what_it_needs() -> None:
    found = values((LAYER / "conf" / "layer.conf").read_text())
    assert found["LAYERSERIES_COMPAT_composeapps"] == "scarthgap wrynose"
    assert found["LAYERDEPENDS_composeapps"].split() == [
        "core",
        "meta-python",
        "virtualization-layer",
    ]
