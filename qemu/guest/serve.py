#!/usr/bin/python3 -IS
"""Runs in a test's guest: commands come in by a virtio-serial port, results go back by it.

One JSON object per line: ``{"id", "argv", "stdin", "timeout"}`` gives ``{"id", "code", "out",
"err"}``, bytes in base64. No network is involved, so nothing listens on one.
"""

import base64
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

PORT = "composeapps.test"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


def main() -> int:
    """Serve until the machine goes down."""
    deadline = time.monotonic() + 60  # the kernel names ports when it gets to it
    while time.monotonic() < deadline:
        for name in Path("/sys/class/virtio-ports").glob("*/name"):
            if name.read_text().strip() == PORT:
                serve(Path("/dev", name.parent.name))
        time.sleep(0.1)
    print(f"there is no virtio-serial port {PORT}", file=sys.stderr)
    return 1


def serve(device: Path) -> None:
    """Answer every line with one, in any order."""
    lock = threading.Lock()
    with device.open("r+b", buffering=0) as port:

        def answer(request: dict[str, object]) -> None:
            line = json.dumps(run(request)).encode() + b"\n"
            with lock:
                view = memoryview(line)
                while view:
                    view = view[port.write(view) :]

        buffer = b""
        while data := port.read(65536):
            *lines, buffer = (buffer + data).split(b"\n")
            for line in filter(None, lines):
                threading.Thread(target=answer, args=(json.loads(line),)).start()


def run(request: dict[str, object]) -> dict[str, object]:
    """Run one command to its end."""
    argv, timeout = request["argv"], request["timeout"]
    assert isinstance(argv, list) and isinstance(timeout, (int, float))
    try:
        done = subprocess.run(
            argv,
            input=base64.b64decode(str(request["stdin"])),
            capture_output=True,
            timeout=timeout,
            env=ENVIRONMENT,
            cwd="/",
            check=False,
        )
        code, out, err = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        code, out, err = -1, error.stdout or b"", f"not done in {timeout:g} s".encode()
    except OSError as error:
        code, out, err = 127, b"", str(error).encode()
    texts = {"out": base64.b64encode(out).decode(), "err": base64.b64encode(err).decode()}
    return {"id": request["id"], "code": code, **texts}


if __name__ == "__main__":
    sys.exit(main())
