"""Runs in a testbed: ``docker load`` and ``docker save``, as the command does them, without it.

    python3 load.py load FILE
    python3 load.py save FILE IMAGE...

Bytes go between file and socket in large pieces and nothing else is loaded, so that what is
measured is the engine.
"""

import http.client
import shutil
import socket
import sys
from urllib.parse import urlencode

PIECE = 1024 * 1024


class Engine(http.client.HTTPConnection):
    """A connection to the engine's socket."""

    def connect(self) -> None:
        """Connect to the engine, whatever the host's name is."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect("/run/docker.sock")


def load(path: str) -> None:
    """Load an archive; an error hides in an answer of 200."""
    engine = Engine("docker", blocksize=PIECE)
    with open(path, "rb") as archive:
        headers = {"Content-Type": "application/x-tar", "Transfer-Encoding": "chunked"}
        engine.request("POST", "/images/load?quiet=1", archive, headers, encode_chunked=True)
    answer = engine.getresponse()
    body = answer.read()
    if answer.status != 200 or b'"error"' in body:
        sys.exit(f"load: {answer.status} {body[:500]!r}")


def save(path: str, names: list[str]) -> None:
    """Save images to an archive."""
    engine = Engine("docker")
    engine.request("GET", "/images/get?" + urlencode([("names", name) for name in names]))
    answer = engine.getresponse()
    with open(path, "wb") as archive:
        if answer.status != 200:
            sys.exit(f"save: {answer.status} {answer.read()[:500]!r}")
        shutil.copyfileobj(answer, archive, PIECE)


if __name__ == "__main__":
    if sys.argv[1] == "load":
        load(sys.argv[2])
    else:
        save(sys.argv[2], sys.argv[3:])
