"""The demo's web service: counts visits in the store and shows them."""

import json
import os
import signal
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import page

PORT = 8080


class StoreError(Exception):
    """The store did not answer as it should."""


class Store:
    """A client for the store's protocol (RESP2), one connection for each command."""

    def __init__(self):
        self.address = (os.environ["STORE_HOST"], int(os.environ["STORE_PORT"]))
        self.password = Path(os.environ["STORE_PASSWORD_FILE"]).read_text().strip()

    def command(self, *words):
        """Send one command and return its answer: bytes, an integer, or None."""
        try:
            with socket.create_connection(self.address, timeout=2) as connection:
                stream = connection.makefile("rwb")
                self._talk(stream, "AUTH", self.password)
                return self._talk(stream, *words)
        except OSError as error:
            raise StoreError(str(error)) from error

    def _talk(self, stream, *words):
        parts = [word.encode() for word in words]
        stream.write(b"*%d\r\n" % len(parts))
        for part in parts:
            stream.write(b"$%d\r\n%s\r\n" % (len(part), part))
        stream.flush()
        line = stream.readline().strip()
        if line[:1] == b":":
            return int(line[1:])
        if line[:1] == b"$":
            size = int(line[1:])
            return None if size < 0 else stream.read(size + 2)[:size]
        if line[:1] == b"+":
            return line[1:]
        raise StoreError(line.decode("utf-8", "replace") or "the connection was closed")


class Handler(BaseHTTPRequestHandler):
    """``/`` counts and shows, ``/visits`` only tells, ``/healthz`` judges."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answer one request."""
        store = self.server.store
        try:
            if self.path == "/":
                greeting = Path("/etc/web/greeting.txt").read_text().strip()
                visits = store.command("INCR", "visits")
                self.answer(200, "text/html", page.render(greeting, visits))
            elif self.path == "/visits":
                visits = int(store.command("GET", "visits") or 0)
                document = {"version": page.VERSION, "visits": visits}
                self.answer(200, "application/json", json.dumps(document))
            elif self.path == "/healthz":
                problem = page.problem(store)
                self.answer(503 if problem else 200, "text/plain", problem or "healthy")
            else:
                self.answer(404, "text/plain", "no such page")
        except StoreError as error:
            self.answer(503, "text/plain", f"store: {error}")

    def answer(self, status, kind, text):
        """Send a complete answer."""
        data = (text + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code="-", size="-"):
        """Log what went wrong only: health checks would fill a device's flash."""
        if int(code) >= 400:
            super().log_request(code, size)


def main():
    """Serve until told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = ThreadingHTTPServer(("", PORT), Handler)
    server.store = Store()
    print(f"web {page.VERSION} listens on port {PORT}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
