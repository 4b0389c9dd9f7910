"""Runs in a testbed: writes the engine's container events to a file, one JSON line each.

    python3 events.py OUTPUT

Read as a stream from the start, because the engine remembers only 256 of them. The first line is
the header of the answer: from then on nothing is missed.
"""

import json
import socket
import sys
from urllib.parse import quote

FILTERS = {"type": ["container"], "event": ["start", "die", "health_status"]}


def main() -> None:
    """Copy the stream until it ends."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect("/run/docker.sock")
    query = quote(json.dumps(FILTERS))
    connection.sendall(f"GET /events?filters={query} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
    with open(sys.argv[1], "wb", buffering=0) as output:
        while data := connection.recv(65536):
            output.write(data)


if __name__ == "__main__":
    main()
