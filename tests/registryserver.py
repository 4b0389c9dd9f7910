"""Debian's real docker-registry as a server of tests, on 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from certificates import Identity
from servers import HOST, HTPASSWD, USER, free_port


class DockerRegistry:
    """Debian's ``docker-registry``, the CNCF distribution project's server, in a directory.

    Args:
        directory: where its files go.
        tls: the server's certificate; None for plain http.
        clients: PEM file of the authority whose client certificates it demands.
        htpasswd: demand ``USER`` and ``PASSWORD``.
        token: realm, issuer and certificate bundle of a token server, instead.
    """

    PROGRAM = "docker-registry"

    def __init__(
        self,
        directory: Path,
        *,
        tls: Identity | None = None,
        clients: Path | None = None,
        htpasswd: bool = False,
        token: tuple[str, str, Path] | None = None,
    ) -> None:
        program = shutil.which(self.PROGRAM)
        if program is None:
            raise FileNotFoundError(f"{self.PROGRAM} is not installed")
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.netloc = f"{HOST}:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.netloc}"
        config = directory / "config.yml"
        config.write_text(self._config(tls, clients, htpasswd, token))
        self._log = (directory / "log").open("wb")
        self._process = subprocess.Popen(
            [program, "serve", str(config)],
            stdout=self._log,
            stderr=self._log,
            env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
        )
        self._wait()

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
        """End the server; its files stay."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _config(
        self,
        tls: Identity | None,
        clients: Path | None,
        htpasswd: bool,
        token: tuple[str, str, Path] | None,
    ) -> str:
        lines = [
            "version: 0.1",
            "log: {level: warn}",
            f"storage: {{filesystem: {{rootdirectory: {self.directory / 'data'}}}}}",
            "http:",
            f"  addr: {self.netloc}",
            "  secret: not-secret",
        ]
        if tls:
            lines += ["  tls:", f"    certificate: {tls.certificate}", f"    key: {tls.key}"]
            lines += [f"    clientcas: [{clients}]"] if clients else []
        if htpasswd:
            path = self.directory / "htpasswd"
            path.write_text(f"{USER}:{HTPASSWD}\n")
            lines += ["auth:", f"  htpasswd: {{realm: test, path: {path}}}"]
        if token:
            realm, issuer, bundle = token
            lines += [
                "auth:",
                "  token:",
                f"    realm: {realm}",
                "    service: test-registry",
                f"    issuer: {issuer}",
                f"    rootcertbundle: {bundle}",
            ]
        return "\n".join(lines) + "\n"

    def _wait(self) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1):
                return
            time.sleep(0.02)
        self.close()
        raise RuntimeError("docker-registry did not start: " + (self.directory / "log").read_text())
