"""The command among others: locks, signals, streams, other users."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cliparts import CLI, SETTINGS, failed, run

from composeapps import cli, verbs
from composeapps.state import State


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "settings.toml"
    file.write_text(SETTINGS.format(root=tmp_path))
    return file


def test_the_lock_is_busy(settings: Path, tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from composeapps import config\n"
        "from composeapps.device import Device\n"
        "with Device(config.load([Path(sys.argv[1])])).writer('update'):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", holder, str(settings)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        sentence = failed(10, "--config", str(settings), "prune")
        assert sentence == (
            f"composeapps is at work already (`composeapps update`, process {process.pid}): "
            "try again when it has ended"
        )
        assert run("--config", str(settings), "status").returncode == 0, "looking needs no lock"
    finally:
        process.kill()
        process.communicate()
    assert run("--config", str(settings), "prune").returncode == 0


SLOW = """
import signal, sys, time
from composeapps import cli, verbs
# A shell lets what it starts in the background ignore this one, these tests too.
signal.signal(signal.SIGINT, signal.default_int_handler)
def slow(device, options):
    with device.writer("update"), device.state.transaction() as db:
        db.execute("INSERT INTO image VALUES ('x')")
        print("begun", flush=True)
        time.sleep(60)
verbs.VERBS["update"] = slow
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_verb_cleanly(
    settings: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "--config", str(settings), "update"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    begun = time.monotonic()
    process.send_signal(number)
    _, message = process.communicate(timeout=10)
    assert time.monotonic() - begun < 5
    assert process.returncode == 130
    assert message == "composeapps: interrupted; the next run goes on from here\n"
    state = State(tmp_path / "data" / "state.db")
    assert state.images() == set(), "half a transaction is none"
    state.close()
    assert run("--config", str(settings), "prune").returncode == 0


def shell(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f"set -o pipefail; {script}", "-", *CLI, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["ls"], ["--json", "nonsense"]])
def test_a_reader_that_goes_away_is_no_error_to_speak_of(
    settings: Path, arguments: list[str]
) -> None:
    script = '{ sleep 0.1; "$@"; echo "code $?" >&2; } | true'
    done = shell(script, "--config", str(settings), *arguments)
    code = 2 if "nonsense" in arguments else 0
    told = [line for line in done.stderr.splitlines() if not line.startswith("composeapps: ")]
    assert told == [f"code {code}"]


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&-", "0<&- 1>&- 2>&-"])
def test_closed_streams(settings: Path, tmp_path: Path, closed: str) -> None:
    """Else the first file that is opened becomes standard output, and a child writes into it."""
    done = shell(f'"$@" {closed}', "--config", str(settings), "prune")
    assert done.returncode == 0
    assert done.stderr == ""
    done = shell(f'"$@" {closed}', "--config", str(settings), "retry")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    State(tmp_path / "data" / "state.db").check()


@pytest.mark.parametrize("arguments", [["ls"], ["--json", "ls"], ["--help"]])
def test_a_full_output_is_told(settings: Path, arguments: list[str]) -> None:
    done = shell('"$@" > /dev/full', "--config", str(settings), *arguments)
    assert done.returncode == 7
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_names_that_are_no_utf_8_can_be_printed(settings: Path) -> None:
    code = (
        "import sys; from composeapps import cli, verbs\n"
        "verbs.VERBS['verify'] = lambda d, o: print('file \\udcff \\ud800')\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--config", str(settings), "verify"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "file \\udcff \\ud800\n")
    assert failed(2, "--config", os.fsdecode(b"/\xff.toml"), "ls").startswith("no settings file /")


def test_a_data_directory_that_cannot_be(settings: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    for verb in ("prune", "status"):
        sentence = failed(13, "--config", str(settings), verb)
        assert f"{tmp_path}/data" in sentence


def test_a_damaged_state_is_told_by_those_who_look_and_mended_by_those_who_write(
    settings: Path, tmp_path: Path
) -> None:
    run("--config", str(settings), "prune")
    (tmp_path / "data" / "state.db").write_bytes(b"garbage")
    assert "composeapps start begins a new one" in failed(13, "--config", str(settings), "status")
    assert run("--config", str(settings), "prune").returncode == 0
    value = json.loads(run("--config", str(settings), "--json", "status").stdout)
    assert value["events_unsent"] == 1


@pytest.mark.usefixtures("in_process")
def test_another_user_is_told_what_to_do(settings: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    settings.parent.chmod(0o700)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        os.setgid(65534)
        os.setuid(65534)
        code = 99
        try:
            code = cli.main(["--config", str(settings), "prune"])
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        message = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 13
    assert message == f"composeapps: {settings}: Permission denied: run it as root\n"


def test_help_and_version() -> None:
    top = run("--help")
    assert top.returncode == 0
    for verb in [*verbs.VERBS, "run"]:
        assert f"    {verb} " in top.stdout
        assert run(verb, "--help").returncode == 0 if verb in ("reset", "logs") else True
    assert run("--version").stdout.startswith("composeapps ")


def test_every_verb_of_the_parser_does_something() -> None:
    actions = cli.parser()._subparsers
    assert actions is not None
    names = set(next(iter(actions._group_actions)).choices or ())
    assert names == {*verbs.VERBS, "mount", "run"}
