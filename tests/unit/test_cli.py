"""The command as a process: exit codes, streams, signals, and what a person is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from composeapps import cli, edge, errors, verbs
from composeapps.errors import ComposeAppsError
from composeapps.process import ProcessError
from composeapps.state import State

CLI = [sys.executable, "-m", "composeapps.cli"]
SETTINGS = """
[device]
id = "test"
[paths]
data = "{root}/data"
run = "{root}/run"
factory = "{root}/factory"
root = "{root}/root.json"
[source]
url = "file://{root}/nowhere"
[engine]
docker = "unix://{root}/docker.sock"
containerd = "{root}/containerd.sock"
docker_root = "{root}/docker"
containerd_root = "{root}/containerd"
stop = ["false"]
start = ["false"]
ready_timeout = 0
"""
ERRORS: list[type[ComposeAppsError]] = sorted(
    {value for value in vars(errors).values() if isinstance(value, type)} | {ProcessError},
    key=lambda kind: kind.__name__,
)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "settings.toml"
    file.write_text(SETTINGS.format(root=tmp_path))
    return file


def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; a traceback is never an answer."""
    done = subprocess.run(
        [*CLI, *arguments], capture_output=True, text=True, timeout=60, check=False, **more
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def failed(code: int, *arguments: str, **more: Any) -> str:
    """Run a command that fails and return its one sentence."""
    done = run(*arguments, **more)
    assert (done.returncode, done.stdout) == (code, ""), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("composeapps: ")
    return line.removeprefix("composeapps: ")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the signal handlers and the streams of the test's own process."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(edge, "_open_standard_streams", lambda: None)
    yield
    signal.signal(signal.SIGTERM, before)


def make(kind: type[ComposeAppsError]) -> ComposeAppsError:
    return ProcessError(["prog"], "failed") if kind is ProcessError else kind("one sentence")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("kind", ERRORS)
def test_each_error_becomes_its_exit_code(
    settings: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type[ComposeAppsError],
    as_json: bool,
) -> None:
    error = make(kind)

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setitem(verbs.VERBS, "status", fail)
    flags = ["--json"] if as_json else []
    assert cli.main(["--config", str(settings), *flags, "status"]) == kind.exit_code
    output, message = capsys.readouterr()
    assert message == f"composeapps: {error}\n"
    if as_json:
        value = json.loads(output)
        assert value == {"error": str(error), "kind": kind.__name__, "code": kind.exit_code}
    else:
        assert output == ""


def test_exit_codes_are_told_apart() -> None:
    by_code: dict[int, set[str]] = {}
    for kind in ERRORS:
        by_code.setdefault(kind.exit_code, set()).add(kind.__name__)
    assert set(by_code) == set(range(1, 14))
    shared = {code: names for code, names in by_code.items() if len(names) > 1}
    assert shared == {
        3: {"ConfigError", "SettingsError"},
        4: {"SourceError", "TransientError", "NotFoundError"},
        8: {"EngineError", "ProcessError", "UnsupportedError"},
        13: {"StateError", "NewerStateError", "DamagedStateError"},
    }


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            OSError(28, "No space left on device", "/data/x"),
            7,
            "/data/x: No space left on device: ",
        ),
        (OSError(122, "Disk quota exceeded"), 7, "a file: Disk quota exceeded: free"),
        (PermissionError(13, "Permission denied", "/data"), 13, "denied: run it as root"),
        (OSError(30, "Read-only file system", "/data"), 13, "/data: Read-only file system: is its"),
        (OSError(5, "Input/output error", "/data"), 13, "is its file system there, sound and"),
        (OSError("odd"), 13, "a file: odd: is its"),
        (BrokenPipeError(32, "Broken pipe"), 13, "a file: Broken pipe"),
    ],
    ids=str,
)
def test_errors_of_the_system_are_told_too(
    settings: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: OSError,
    code: int,
    message: str,
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setitem(verbs.VERBS, "status", fail)
    assert cli.main(["--config", str(settings), "status"]) == code
    assert message in capfd.readouterr().err


@pytest.mark.usefixtures("in_process")
def test_a_defect_is_not_hidden(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setitem(verbs.VERBS, "status", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["--config", str(settings), "status"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: VERB: see composeapps --help"),
        (["sttus"], "invalid choice: 'sttus'"),
        (["check", "extra"], "unrecognized arguments: extra: see composeapps"),
        (["--conf", "x", "check"], "invalid choice: 'x'"),
        (["check", "--quiet"], "unrecognized arguments: --quiet"),
        (["--config"], "argument --config: expected one argument"),
        (["logs"], "the following arguments are required: app"),
        (["logs", "web", "--tail", "-1"], "not a number of lines: '-1'"),
        (["logs", "web", "--tail", "many"], "not a number of lines: 'many'"),
        (["logs", "web", "-n", "1000001"], "not a number of lines"),
        (["logs", "web", "-n", "9" * 5000], "--tail"),
        (["reset", "--engine", "--factory"], "not allowed with argument --engine"),
        (["reset", "web", "--engine"], "not allowed with argument"),
        (["verify", "--deep=yes"], "ignored explicit argument 'yes'"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    sentence = failed(2, *arguments)
    assert message in sentence
    assert sentence.endswith("--help")


def test_usage_errors_for_programs() -> None:
    done = run("--json", "nonsense")
    assert done.returncode == 2
    value = json.loads(done.stdout)
    assert (value["kind"], value["code"]) == ("UsageError", 2)


def test_settings_files_that_cannot_be(settings: Path, tmp_path: Path) -> None:
    assert failed(2, "--config", "/nowhere.toml", "ls") == "no settings file /nowhere.toml"
    assert failed(2, "--config", str(tmp_path), "ls") == f"no settings file {tmp_path}"
    assert failed(2, "--config", "", "ls") == "no settings file ."
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"\xff")
    assert failed(3, "--config", str(settings), "--config", str(bad), "ls").startswith(str(bad))
    assert failed(3, "--config", str(bad), "run").startswith(str(bad))
    more = tmp_path / "more.toml"
    more.write_text('[device]\nchannel = "other"\n')
    done = run("--config", str(settings), "--config", str(more), "--json", "status")
    assert json.loads(done.stdout)["channel"] == "other"


@pytest.mark.parametrize("verb", ["check", "update", "fetch", "diff"])
def test_without_a_root_nothing_is_trusted(settings: Path, verb: str) -> None:
    assert "the TUF root" in failed(3, "--config", str(settings), verb)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["apply"], 2, "run composeapps fetch first"),
        (["retry"], 2, "no release failed"),
        (["stop"], 3, "no release is installed"),
        (["ps"], 3, "no release is installed"),
        (["logs", "web"], 3, "no release is installed"),
        (["reset", "--factory"], 3, "this image carries no factory release"),
        (["reset", "--wipe-volume", "data"], 2, "--wipe-volume needs an app"),
        (["reset", "--engine", "--wipe-volume", "data"], 2, "--wipe-volume needs an app"),
    ],
)
def test_verbs_on_an_empty_device(
    settings: Path, arguments: list[str], code: int, message: str
) -> None:
    assert message in failed(code, "--config", str(settings), *arguments)
    value = json.loads(run("--config", str(settings), *arguments, "--json").stdout)
    assert value["code"] == code
    assert message in value["error"]


def test_what_an_empty_device_can_say(settings: Path) -> None:
    status = run("--config", str(settings), "status")
    assert (status.returncode, status.stdout) == (0, "channel   stable\ncurrent   none\n")
    listing = run("--config", str(settings), "ls")
    assert listing.stdout == "VERSION  CHANNEL  STATE  ROLE  DIGEST\n"
    assert json.loads(run("--config", str(settings), "ls", "--json").stdout) == []
    assert json.loads(run("--config", str(settings), "--json", "ls").stdout) == []
    assert run("--config", str(settings), "prune").stdout == "0 bytes freed\n"
    assert run("--config", str(settings), "report").stdout == "0 events delivered\n"


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
import sys, time
from composeapps import cli, verbs
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


def test_a_full_output_is_told(settings: Path) -> None:
    done = shell('"$@" > /dev/full', "--config", str(settings), "ls")
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
