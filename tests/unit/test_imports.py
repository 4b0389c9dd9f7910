"""What a command loads before it needs it: a fresh interpreter tells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Each costs a resident process megabytes, or every start of a verb tenths of a second.
HEAVY = (
    "asyncio concurrent.futures cryptography ctypes docker http.client multiprocessing "
    "requests securesystemslib sqlite3 ssl tarfile tuf urllib3 yaml zstandard"
).split()
#: Prints what was loaded besides what a bare interpreter has.
TELL = """
import sys
before = set(sys.modules)
{code}
print("\\n".join(sorted(set(sys.modules) - before)))
"""


def loaded(code: str, *arguments: str) -> set[str]:
    """Return the modules that some code loads in a fresh interpreter."""
    command = [sys.executable, "-c", TELL.format(code=code), *arguments]
    return set(subprocess.check_output(command, text=True).split())


def foreign(names: set[str]) -> set[str]:
    """Return what is neither ours nor the standard library's."""
    tops = {name.split(".")[0] for name in names}
    return tops - set(sys.stdlib_module_names) - {"composeapps"}


def test_the_resident_part_loads_the_standard_library_only() -> None:
    names = loaded("import composeapps.supervise")
    assert "composeapps.config" in names, "the test sees what is loaded"
    assert foreign(names) == set()
    assert names & set(HEAVY) == set()
    ours = {name for name in names if name.startswith("composeapps.")}
    assert ours == {
        f"composeapps.{name}"
        for name in ("boot", "config", "engineevents", "errors", "process", "supervise")
    }


RUN = """
from composeapps import cli, supervise
supervise.Supervisor.run = lambda self: print("ran") or 0
assert cli.main(["--config", sys.argv[1], "run"]) == 0
"""


def test_the_run_verb_loads_nothing_heavy(tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text("")
    names = loaded(RUN, str(settings))
    assert "ran" in names, "the verb was reached"
    assert foreign(names - {"ran"}) == set()
    assert names & set(HEAVY) == set()
    assert not names & {"composeapps.verbs", "composeapps.device", "composeapps.state"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"], ["reset", "-h"]])
def test_help_and_mistakes_load_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import contextlib, io
from composeapps import cli
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    with contextlib.suppress(SystemExit):
        cli.main({arguments})
"""
    names = loaded(code)
    assert "composeapps.cli" in names
    assert foreign(names) == set()
    assert names & set(HEAVY) == set()


@pytest.mark.parametrize("verb", ["ls", "status", "prune"])
def test_local_verbs_do_not_load_network_and_trust(tmp_path: Path, verb: str) -> None:
    settings = tmp_path / "settings.toml"
    paths = "\n".join(f'{name} = "{tmp_path / name}"' for name in ("data", "run", "factory"))
    settings.write_text(f"[paths]\n{paths}\n")
    code = f"""
import contextlib, io
from composeapps import cli
with contextlib.redirect_stdout(io.StringIO()):
    cli.main(["--config", sys.argv[1], "{verb}"])
"""
    tops = {name.split(".")[0] for name in loaded(code, str(settings))}
    assert tops & {"tuf", "securesystemslib", "cryptography", "docker", "yaml"} == set()


def test_early_start_loads_little(tmp_path: Path) -> None:
    """The boot waits for it; mounting needs ctypes."""
    settings = tmp_path / "settings.toml"
    paths = "\n".join(f'{name} = "{tmp_path / name}"' for name in ("data", "run", "factory"))
    settings.write_text(f'[paths]\n{paths}\n[engine]\ncontainerd_root = "{tmp_path}"\n')
    code = """
from composeapps import cli
assert cli.main(["--config", sys.argv[1], "mount"]) == 0
"""
    names = loaded(code, str(settings))
    assert "composeapps.early" in names
    assert names & (set(HEAVY) - {"ctypes"}) == set()
    assert not names & {"composeapps.verbs", "composeapps.engine", "composeapps.compose"}


def test_the_device_side_never_loads_the_makers() -> None:
    names = loaded("import composeapps.verbs, composeapps.trust, composeapps.engine")
    assert "composeapps.seal" in names, "the test sees what is loaded"
    assert {name for name in names if name.startswith("composeapps.publish")} == set()
    assert "yaml" not in names
