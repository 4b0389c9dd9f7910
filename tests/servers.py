"""Real servers on 127.0.0.1 for tests: well-behaved ones, scripted liars, TLS, a proxy, a registry.

Every server keeps what it was asked in ``requests``, runs in threads of its own and is closed by
leaving its ``with``. Nothing listens anywhere else.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Asked:
    """One request as it came; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    #: The URL's scheme and authority as the client may use them, for Location headers.
    url: str = ""


class Wire:
    """One connection to a scripted server."""

    def __init__(self, sock: socket.socket, server: RawServer) -> None:
        self.sock = sock
        self._server = server
        self._file = sock.makefile("rb")

    def request(self) -> Asked | None:
        """Read one request and note it; None where the client is gone."""
        line = self._file.readline(65536).decode("latin-1").strip()
        if not line:
            return None
        headers = {}
        while text := self._file.readline(65536).decode("latin-1").strip():
            name, _, value = text.partition(":")
            headers[name.strip().lower()] = value.strip()
        body = self._file.read(int(headers.get("content-length", 0)))
        method, target, _ = line.split(" ", 2)
        asked = Asked(method, target, headers, body, self._server.url)
        self._server.requests.append(asked)
        return asked

    def send(self, data: bytes | str) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def reset(self) -> None:
        """End the connection with a reset instead of an orderly end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._file.close()
        self.sock.close()


class RawServer:
    """Runs a script for each connection; the script may do whatever it likes with it."""

    def __init__(
        self, script: Callable[[Wire], None], *, context: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[Asked] = []
        self.connections = 0
        self._script = script
        self._context = context
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self._open: set[socket.socket] = set()
        self.port: int = self._listener.getsockname()[1]
        self.netloc = f"{HOST}:{self.port}"
        self.url = f"{'https' if context else 'http'}://{self.netloc}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop to listen and cut all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        plain = sock
        self._open.add(plain)
        try:
            sock.settimeout(60)
            if self._context:
                sock = self._context.wrap_socket(sock, server_side=True)
                self._open.add(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._script(Wire(sock, self))
        except (OSError, ValueError):
            pass  # the client went away; its test says whether that was right
        finally:
            self._open -= {sock, plain}
            with contextlib.suppress(OSError):
                sock.close()


@dataclass
class Reply:
    """What an ``HttpServer`` answers."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    #: Bytes of the body that are sent before the connection is reset; None for all.
    cut: int | None = None
    #: Seconds between pieces of 16 KiB.
    pause: float = 0.0


class HttpServer(RawServer):
    """Answers well-formed HTTP/1.1 with keep-alive; ``answer`` decides what."""

    def __init__(
        self, answer: Callable[[Asked], Reply], *, context: ssl.SSLContext | None = None
    ) -> None:
        self.answer = answer
        super().__init__(self._keep_answering, context=context)

    def _keep_answering(self, wire: Wire) -> None:
        while (asked := wire.request()) is not None:
            reply = self.answer(asked)
            headers = {"Content-Length": str(len(reply.body)), **reply.headers}
            head = f"HTTP/1.1 {reply.status} x\r\n"
            wire.send(head + "".join(f"{n}: {v}\r\n" for n, v in headers.items()) + "\r\n")
            if asked.method == "HEAD":
                continue
            body = reply.body if reply.cut is None else reply.body[: reply.cut]
            if not reply.pause:
                wire.send(body)
            for start in range(0, len(body) if reply.pause else 0, 16384):
                wire.send(body[start : start + 16384])
                time.sleep(reply.pause)
            if reply.cut is not None:
                wire.reset()
                return


def ranged(asked: Asked, body: bytes) -> Reply:
    """Return a file as a static web server does: with ranges and an entity tag."""
    etag = f'"{len(body):x}-{hash(body) & 0xFFFFFFFF:x}"'
    if asked.headers.get("if-none-match") == etag:
        return Reply(304, b"", {"ETag": etag})
    span = asked.headers.get("range", "")
    if not span.startswith("bytes="):
        return Reply(200, body, {"ETag": etag, "Accept-Ranges": "bytes"})
    first, _, last = span.removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last or len(body) - 1), len(body) - 1)
    if start > end:
        return Reply(416, b"", {"Content-Range": f"bytes */{len(body)}"})
    headers = {"ETag": etag, "Content-Range": f"bytes {start}-{end}/{len(body)}"}
    return Reply(206, body[start : end + 1], headers)


class StaticServer(HttpServer):
    """A static web server for files in memory (path to bytes) or below a directory."""

    def __init__(
        self, files: Mapping[str, bytes] | Path, *, context: ssl.SSLContext | None = None
    ) -> None:
        self.files = files
        super().__init__(self._file, context=context)

    def _file(self, asked: Asked) -> Reply:
        path = asked.target.partition("?")[0]
        if isinstance(self.files, Path):
            file = self.files / path.lstrip("/")
            safe = file.is_file() and file.resolve().is_relative_to(self.files.resolve())
            body = file.read_bytes() if safe else None
        else:
            body = self.files.get(path)
        return Reply(404, b"not here") if body is None else ranged(asked, body)


class Proxy(RawServer):
    """An HTTP proxy that alone knows some host names, and where they really are.

    Args:
        names: host name to port on 127.0.0.1.
        login: ``user:password`` that it demands; "" for none.
    """

    def __init__(self, names: Mapping[str, int], *, login: str = "") -> None:
        self._names = names
        self._login = login
        super().__init__(self._relay)

    def _relay(self, wire: Wire) -> None:
        asked = wire.request()
        if asked is None:
            return
        if self._login:
            wanted = "Basic " + base64.b64encode(self._login.encode()).decode()
            if asked.headers.get("proxy-authorization") != wanted:
                wire.send("HTTP/1.1 407 no\r\nContent-Length: 0\r\n\r\n")
                return
        target = asked.target.removeprefix("http://").partition("/")[0]
        port = self._names.get(target.rpartition(":")[0] or target)
        if port is None:
            wire.send("HTTP/1.1 502 unknown host\r\nContent-Length: 0\r\n\r\n")
            return
        with socket.create_connection((HOST, port)) as upstream:
            if asked.method == "CONNECT":
                wire.send("HTTP/1.1 200 ok\r\n\r\n")
            else:
                path = "/" + asked.target.removeprefix("http://").partition("/")[2]
                lines = [f"{n}: {v}" for n, v in asked.headers.items() if "proxy" not in n]
                lines += ["connection: close"]
                upstream.sendall(
                    f"{asked.method} {path} HTTP/1.1\r\n".encode()
                    + "\r\n".join(lines).encode()
                    + b"\r\n\r\n"
                    + asked.body
                )
            back = threading.Thread(target=_pump, args=(upstream, wire.sock), daemon=True)
            back.start()
            _pump(wire.sock, upstream)
            back.join(10)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


#: bcrypt of "secret", cost 4, for the user "maker": no program is needed to make it.
HTPASSWD = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"
USER, PASSWORD = "maker", "secret"


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port
