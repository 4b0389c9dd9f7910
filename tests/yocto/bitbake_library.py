"""Runs bitbake's own library on meta-composeapps: a program, because that library owns its process.

``python bitbake_library.py BUILD COMMAND [ARGUMENT…]`` prints one line of JSON last:

``parse``               every recipe: values, tasks, or why it is skipped
``hash RECIPE TASK…``   base hashes, as bitbake's signatures have them
``run RECIPE TASK…``    runs tasks in order; ends at the first that fails

``BUILD/conf/bblayers.conf`` and ``local.conf`` say what is parsed, as everywhere.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import bb.build
import bb.cache
import bb.cookerdata
import bb.data
import bb.msg
import bb.parse
import bb.siggen

#: What the tests look at.
VALUES = (
    "BBCLASSEXTEND COMPOSEAPPS_KEY COMPOSEAPPS_PLATFORM DEPENDS FILES LIC_FILES_CHKSUM LICENSE PN "
    "PV PACKAGE_BEFORE_PN RDEPENDS SRC_URI SRC_URI[sha256sum] SYSTEMD_SERVICE S WKS_FILE"
).split()


class Library:
    """One build directory, its configuration read."""

    def __init__(self, build: Path) -> None:
        os.chdir(build)
        os.environ.setdefault("BB_SKIP_NETTESTS", "1")
        configuration = bb.cookerdata.CookerConfiguration()
        configuration.env = {"PATH": os.environ["PATH"], "HOME": str(build), "TOPDIR": str(build)}
        self.builder = bb.cookerdata.CookerDataBuilder(configuration, worker=True)
        self.builder.basedata.setVar("TOPDIR", str(build))
        self.builder.parseBaseConfiguration(worker=True)
        self.data = self.builder.data
        bb.parse.siggen = bb.siggen.init(self.data)

    def recipes(self) -> dict[str, list[str]]:
        """Return recipes with their appends, as BBFILES names them."""
        patterns = (self.data.getVar("BBFILES") or "").split()
        files = sorted({path for pattern in patterns for path in glob.glob(pattern)})
        appends = [path for path in files if path.endswith(".bbappend")]
        found = {}
        for recipe in (path for path in files if path.endswith(".bb")):
            name = os.path.basename(recipe).removesuffix(".bb")
            found[recipe] = [path for path in appends if _matches(path, name)]
        return found

    def parse(self, recipe: str) -> Any:
        """Return the data of a recipe, for the device."""
        paths = [path for path in self.recipes() if os.path.basename(path).startswith(recipe)]
        if len(paths) != 1:
            raise SystemExit(f"{recipe} is not one recipe: {paths}")
        return self.builder.parseRecipe(paths[0], self.recipes()[paths[0]], "composeapps")


def _matches(append: str, name: str) -> bool:
    pattern = os.path.basename(append).removesuffix(".bbappend")
    return name.startswith(pattern[:-1]) if pattern.endswith("%") else name == pattern


def describe(data: Any) -> dict[str, Any]:
    """Return what the tests want to know of a parsed recipe."""
    pn = data.getVar("PN")
    values = {}
    for name in VALUES:
        variable, _, flag = name.rstrip("]").partition("[")
        value = data.getVarFlag(variable, flag) if flag else data.getVar(variable)
        values[name] = value
    values["RDEPENDS"] = data.getVar(f"RDEPENDS:{pn}")
    values["tasks"] = data.getVar("__BBTASKS", False) or []
    values["skipped"] = data.getVar("__SKIPPED", False) or ""
    return values


def parse_all(library: Library) -> dict[str, Any]:
    """Parse every recipe, its variants for the build too."""
    found: dict[str, Any] = {}
    for recipe, appends in library.recipes().items():
        variants = library.builder.parseRecipeVariants(recipe, appends, layername="composeapps")
        for variant, data in variants.items():
            found[f"{os.path.basename(recipe)}{':' if variant else ''}{variant}"] = describe(data)
    return found


def hashes(data: Any, tasks: list[str]) -> dict[str, str]:
    """Return the base hash of tasks."""
    ignored = set((data.getVar("BB_BASEHASH_IGNORE_VARS") or "").split())
    names, dependencies, values = bb.data.generate_dependencies(data, ignored)
    file = data.getVar("FILE")
    _, base = bb.data.generate_dependency_hash(names, dependencies, values, ignored, file)
    return {task: base[f"{file}:{task}"] for task in tasks}


def run(data: Any, tasks: list[str]) -> int:
    """Run tasks; return the exit status of the last one."""
    bb.parse.siggen.setup_datacache_from_datastore(data.getVar("FILE"), data)
    for task in tasks:
        if data.getVarFlag(task, "noexec"):
            continue
        for lock in (data.getVarFlag(task, "lockfiles") or "").split():
            os.makedirs(os.path.dirname(lock), exist_ok=True)
        data.setVar("BB_RUNTASK", task)
        data.setVar("BB_TASKHASH", "0")
        if bb.build.exec_task(data.getVar("FILE"), task, data):
            return 1
    return 0


def main(build: str, command: str, *arguments: str) -> int:
    """Do one command."""
    # Of its own: while a task runs, standard error is the task's log.
    handler = logging.StreamHandler(os.fdopen(os.dup(2), "w"))
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.getLogger("BitBake").addHandler(handler)
    library = Library(Path(build))
    if command == "parse":
        print(json.dumps(parse_all(library)))
        return 0
    data = library.parse(arguments[0])
    skipped = data.getVar("__SKIPPED", False)
    if skipped:
        print(json.dumps({"skipped": skipped}))
        return 3
    tasks = list(arguments[1:])
    if command == "hash":
        print(json.dumps(hashes(data, tasks)))
        return 0
    return run(data, tasks)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
