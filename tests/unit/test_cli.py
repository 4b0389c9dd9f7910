"""The command as a process: exit codes and what a person is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cliparts import SETTINGS, failed, run

from composeapps import cli, errors, verbs
from composeapps.errors import ComposeAppsError
from composeapps.process import ProcessError

ERRORS: list[type[ComposeAppsError]] = sorted(
    {value for value in vars(errors).values() if isinstance(value, type)} | {ProcessError},
    key=lambda kind: kind.__name__,
)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "settings.toml"
    file.write_text(SETTINGS.format(root=tmp_path))
    return file


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
