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


def job(text: str, cwd: Path, timeout: float = 20) -> process.Job:
    return process.Job([SH, "-c", text], timeout, cwd, {})


def test_programs_run_side_by_side_and_no_more_than_allowed(tmp_path: Path) -> None:
    # Each waits for what the next one makes, so they have to run at the same time.
    meet = "touch {0}; while [ ! -e {1} ]; do sleep 0.01; done"
    jobs = [job(meet.format("a", "b"), tmp_path), job(meet.format("b", "a"), tmp_path)]
    process.run_together(jobs, limit=2)
    alone = "[ ! -e running ] && touch running && sleep 0.05 && rm running"
    process.run_together([job(alone, tmp_path) for _ in range(4)], limit=1)
    process.run_together([], limit=1)


def test_all_are_tried_and_the_first_failure_is_told(tmp_path: Path) -> None:
    jobs = [
        job("sleep 0.2; echo slow >&2; exit 4", tmp_path),
        process.Job(["/nowhere/program"], 5, tmp_path, {}),
        job("echo $PWD > done; seq 100000", tmp_path),
    ]
    with pytest.raises(ProcessError, match="ended with 4: slow"):
        process.run_together(jobs, limit=3)
    assert (tmp_path / "done").read_text().strip() == str(tmp_path)
    with pytest.raises(ProcessError, match="not installed"):
        process.run_together(jobs[1:], limit=1)


def test_one_that_takes_too_long_is_killed_alone(tmp_path: Path) -> None:
    jobs = [job("exec sleep 60", tmp_path, 0.2), job("sleep 0.4; touch done", tmp_path)]
    with pytest.raises(ProcessError, match=r"did not end within 0\.2 s"):
        process.run_together(jobs, limit=2)
    assert (tmp_path / "done").exists()


def test_an_interruption_ends_them_all(tmp_path: Path) -> None:
    code = f"""
import signal, pathlib
from composeapps import process
signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
argv = ["/bin/sh", "-c", "echo $$ >> pids; exec sleep 60"]
job = process.Job(argv, 60, pathlib.Path({str(tmp_path)!r}), {{}})
process.run_together([job, job], limit=2)
"""
    runner = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    pids = tmp_path / "pids"
    end = time.monotonic() + 20
    while not pids.exists() or len(pids.read_text().splitlines()) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    runner.terminate()
    assert runner.wait(20) != 0
    for pid in pids.read_text().split():
        assert not Path(f"/proc/{pid}").exists()
