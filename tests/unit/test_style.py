"""The house rules that a program can check: format, types, spelling, import directions, sizes.

Each rule's source is CONTRIBUTING.md; the import directions are explained in docs/adr/0001 and
in the layout that CONTRIBUTING.md shows.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "agent" / "composeapps"
PYTHON = ("agent", "qemu", "tests")
#: Lines; what does not fit is two things.
MODULE_LIMIT = 350

#: One module each between the rest and one part of the outside.
SEAMS = ("trust", "source", "store", "seal", "engine", "state")
#: What uses the seams; no seam and no value may lead up to it.
ABOVE = ("update", "reset", "report", "supervise", "cli", "publish")
#: Pure values at the bottom, and all that each may import of ours.
BOTTOM: Mapping[str, frozenset[str]] = {
    "errors": frozenset(),
    "oci": frozenset({"errors"}),
    "config": frozenset({"errors"}),
}
#: Who may import what reaches outside of the process, besides the maker's side.
ONLY_IN: Mapping[str, frozenset[str]] = {
    "docker": frozenset({"engine"}),
    "sqlite3": frozenset({"database"}),
    "subprocess": frozenset({"process", "supervise"}),
    "tuf": frozenset({"tufclient"}),
    "urllib3": frozenset({"answers", "transport", "wire"}),
}


def run(*command: str, env: Mapping[str, str] | None = None) -> None:
    """Run a checker of this interpreter's environment; what it prints is the failure."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def test_format() -> None:
    run("ruff", "format", "--check", "--diff", *PYTHON)


def test_lint() -> None:
    run("ruff", "check", *PYTHON)


def test_types() -> None:
    sources = [str(path.relative_to(ROOT)) for path in typed_sources()]
    # pytest's conftest.py of each folder is one module name to mypy.
    folders = [name for name in sources if name.endswith("/conftest.py") and name.count("/") > 1]
    rest = [name for name in sources if name not in folders]
    for names in (rest, *([name] for name in folders)):
        paths = {"MYPYPATH": ":".join(["tests", "qemu", *{os.path.dirname(n) for n in folders}])}
        run("mypy", "--config-file", "agent/pyproject.toml", *names, env=paths)


def test_spelling() -> None:
    run("codespell_lib", *tracked("*.py", "*.md", "*.sh", "*.yaml", "*.toml", "Makefile"))


def test_module_sizes() -> None:
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in PYTHON
        for path in (ROOT / folder).rglob("*.py")
        if not path.name.startswith("test_")
    }
    assert {name: size for name, size in sizes.items() if size > MODULE_LIMIT} == {}


def test_shell_scripts_parse() -> None:
    for name in [*tracked("*.sh"), ".ci/run"]:
        done = subprocess.run(["bash", "-n", name], cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()


def test_links_in_documents_lead_somewhere() -> None:
    for name in tracked("*.md"):
        text = (ROOT / name).read_text()
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target and not target.startswith("mailto:"):
                assert (ROOT / name).parent.joinpath(target).exists(), f"{name}: {target}"


def tracked(*patterns: str) -> list[str]:
    """Return the repository's files of these kinds, new ones included, ignored ones not."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns]
    names = subprocess.check_output(command, cwd=ROOT, text=True).split("\0")
    return sorted({name for name in names if name and (ROOT / name).is_file()})


def typed_sources() -> Iterator[Path]:
    """Yield what mypy reads; programs that only ever run in containers are left out."""
    yield PACKAGE
    yield ROOT / "qemu"
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if "sources" not in path.parts:
            yield path


@cache
def modules() -> frozenset[str]:
    """Return the package's modules by dotted name, without ``composeapps.``."""
    names = {path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return frozenset(".".join(parts).removesuffix(".__init__") for parts in names)


@cache
def imports(module: str, *, at_once: bool) -> frozenset[str]:
    """Return what a module imports, ours by short name.

    ``at_once`` leaves out what is imported inside functions or for type checking only.
    """
    path = PACKAGE.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    for node in nodes(ast.parse(source.read_text()), at_once):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = {name.removeprefix("composeapps.") for name in found if name.startswith("composeapps.")}
    others = {name.split(".")[0] for name in found} - {"composeapps"}
    return frozenset(ours & modules()) | frozenset(others)


def nodes(node: ast.AST, at_once: bool) -> Iterator[ast.AST]:
    """Walk a syntax tree, with or without what does not run on import."""
    yield node
    if at_once and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return
    children = list(ast.iter_child_nodes(node))
    if at_once and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children = list(node.orelse)
    for child in children:
        yield from nodes(child, at_once)


def reached(module: str, *, at_once: bool) -> set[str]:
    """Return all that importing a module leads to, ours and others'."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        for other in imports(name, at_once=at_once) - seen if name in modules() else ():
            seen.add(other)
            todo.append(other)
    return seen


def existing(*names: str) -> list[str]:
    return [name for name in names if name in modules()]


@pytest.mark.parametrize("seam", existing(*SEAMS))
def test_a_seam_reaches_no_other_and_nothing_above(seam: str) -> None:
    assert reached(seam, at_once=False) & ({*SEAMS, *ABOVE} - {seam}) == set()


@pytest.mark.parametrize("module", sorted(BOTTOM))
def test_values_at_the_bottom_stand_alone(module: str) -> None:
    assert imports(module, at_once=False) & modules() <= BOTTOM[module]


def test_the_device_never_imports_the_makers_side() -> None:
    device = [name for name in modules() if name.split(".")[0] != "publish"]
    guilty = [
        name
        for name in device
        if any(other.startswith("publish") for other in imports(name, at_once=False))
    ]
    assert guilty == []


def test_imports_make_no_circle() -> None:
    circles = [name for name in modules() if name in reached(name, at_once=True)]
    assert circles == []


def test_only_a_command_line_imports_a_command_line() -> None:
    for name in modules():
        others = {other for other in imports(name, at_once=False) if other.endswith("cli")}
        assert not others or name.split(".")[-1] in ("cli", "__main__"), f"{name}: {others}"


def test_one_module_for_each_part_of_the_outside() -> None:
    for outside, allowed in ONLY_IN.items():
        users = {name for name in modules() if outside in imports(name, at_once=False)}
        device = {name for name in users if not name.startswith("publish")}
        assert device <= allowed, f"{outside} is imported by {sorted(device - allowed)}"


def test_the_resident_part_is_standard_library_only() -> None:
    foreign = reached("supervise", at_once=True) - modules() - set(sys.stdlib_module_names)
    assert foreign == set()
