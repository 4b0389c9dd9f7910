"""Other programs: started with a clean environment, bounded in time, every failure one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from composeapps import process
from composeapps.process import ProcessError

SH = "/bin/sh"


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_output_input_and_what_it_said_besides() -> None:
    said: list[str] = []
    argv = [SH, "-c", "cat; printf '\\377' >&2"]
    assert process.run(argv, timeout=5, data=b"\x00in", warn=said.append) == b"\x00in"
    assert said == ["\ufffd"]
    assert process.run([SH, "-c", "cat"], timeout=5) == b""


def test_much_output_and_input_at_once() -> None:
    data = b"x" * 5_000_000
    assert process.run([SH, "-c", "cat; cat /dev/null"], timeout=20, data=data) == data


def test_a_clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMPOSE_FILE", "/evil")
    monkeypatch.setenv("LD_PRELOAD_X", "1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("PATH")
    seen = process.run(["/usr/bin/env"], timeout=5, cwd=tmp_path, env={"A": "1"}).decode()
    variables = dict(line.split("=", 1) for line in seen.splitlines())
    assert variables["PATH"] == process.DEFAULT_PATH
    assert variables["PWD"] == str(tmp_path)
    assert (variables["A"], variables["TZ"]) == ("1", "UTC")
    assert set(variables) <= {"A", "PWD", *process.KEPT}


def test_a_failure_is_told_with_a_command_to_paste_and_the_last_lines() -> None:
    argv = [SH, "-c", "for i in 1 2 3 4; do echo line $i >&2; done; exit 7"]
    with pytest.raises(ProcessError) as caught:
        process.run(argv, timeout=5)
    message = str(caught.value)
    assert message.startswith("`/bin/sh -c 'for i in")
    assert message.endswith("` ended with 7: line 2 / line 3 / line 4")
    assert caught.value.stderr.startswith("line 1")
    assert caught.value.argv == argv


def test_a_failure_told_on_standard_output_or_by_signal() -> None:
    with pytest.raises(ProcessError, match="ended with 1: on stdout"):
        process.run([SH, "-c", "echo on stdout; exit 1"], timeout=5)
    with pytest.raises(ProcessError, match=r"ended with -9$"):
        process.run([SH, "-c", "kill -9 $$"], timeout=5)


def test_programs_that_cannot_be_started(tmp_path: Path) -> None:
    garbage = script(tmp_path / "garbage", "\x7fELF\x00\x01garbage")
    interpreter = script(tmp_path / "script", "#!/nowhere/interpreter\n")
    cases = {
        "no-such-program": "cannot be started, it is not installed",
        "/nowhere/program": "cannot be started, it is not installed",
        script(tmp_path / "plain", "x", mode=0o644): "cannot be started: Permission denied",
        str(tmp_path): "cannot be started: Permission denied",
        garbage: "cannot be started: Exec format error",
        interpreter: "cannot be started, it is not installed",
    }
    for program, reason in cases.items():
        with pytest.raises(ProcessError, match=f"` {reason}$"):
            process.run([program], timeout=5)
        with pytest.raises(ProcessError, match=f"` {reason}$"):
            process.start([program])


def test_a_working_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    gone, file = tmp_path / "gone", tmp_path / "file"
    file.write_text("")
    with pytest.raises(ProcessError, match=f"cannot be started: No such file.* \\({gone}\\)$"):
        process.run([SH, "-c", ":"], timeout=5, cwd=gone)
    with pytest.raises(ProcessError, match=f"cannot be started: Not a directory \\({file}\\)$"):
        process.run([SH, "-c", ":"], timeout=5, cwd=file)


def test_arguments_that_are_too_long() -> None:
    with pytest.raises(ProcessError, match="cannot be started: Argument list too long"):
        process.run([SH, "x" * 4_000_000], timeout=5)


def test_time_is_bounded_also_where_a_grandchild_holds_the_pipe() -> None:
    begun = time.monotonic()
    with pytest.raises(ProcessError, match=r"did not end within 0\.3 s"):
        process.run([SH, "-c", "sleep 5 & sleep 5"], timeout=0.3)
    assert time.monotonic() - begun < 4


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        "from composeapps import process; import pathlib, time\n"
        "child = process.start(['sleep', '60'], die_with_parent=True)\n"
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 10
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    pid = int(note.read_text())
    os.kill(pid, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        # A dead process that nobody waits for yet counts as dead.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
