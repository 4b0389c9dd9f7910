"""The Docker Engine, by the ``docker`` SDK. Images are told to it, never unpacked by it."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
import requests.exceptions

from composeapps.errors import EngineError, UnsupportedError
from composeapps.oci import Descriptor, hex_of

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
ONEOFF_LABEL = "com.docker.compose.oneoff"
DIRECTORY_LABEL = "com.docker.compose.project.working_dir"
VOLUME_LABEL = "com.docker.compose.volume"
#: Seconds; the longest silence of one call: stopping a container waits for its own grace time.
_TIMEOUT = 120.0
#: Seconds; an engine that lives answers a ping at once, one that hangs never does.
_PING = 10.0
_WAIT = 0.2
#: Seconds that a container has to end where its file says nothing (docker stop), and the most that
#: is waited for whatever it says: a release must not keep its own successor out.
_GRACE, _LONGEST_GRACE = 10, 600


@dataclass(frozen=True)
class Container:
    """What the gate and the ladder look at in one container."""

    id: str
    name: str
    project: str
    service: str
    image: str
    #: Docker's word: created, running, paused, restarting, removing, exited, dead.
    status: str
    exit_code: int
    #: healthy, unhealthy, starting, or empty without a healthcheck.
    health: str
    restarts: int
    #: RFC 3339, as Docker writes it.
    started_at: str
    #: Seconds to end in before it is killed (Compose: stop_grace_period).
    grace: int = _GRACE


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except docker.errors.DockerException as error:
        raise EngineError(f"Docker, while {doing}: {_reason(error)}") from error
    except requests.exceptions.RequestException as error:
        raise EngineError(f"Docker does not answer, while {doing}: {error}") from error


def _reason(error: docker.errors.DockerException) -> str:
    if isinstance(error, docker.errors.APIError) and error.explanation:
        return str(error.explanation)
    return str(error)


class Engine:
    """One Docker Engine behind its socket."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: docker.DockerClient | None = None

    @property
    def client(self) -> docker.DockerClient:
        """The SDK's client, connected at first use; raises EngineError."""
        if self._client is None:
            with _translated("connecting"):
                self._client = self._connect(_TIMEOUT)
        return self._client

    def close(self) -> None:
        """Close the connection; the next use opens a new one."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def wait_ready(self, timeout: float) -> None:
        """Wait until the engine answers, at most ``timeout`` seconds; raises EngineError."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                with _translated("waiting for it"), contextlib.closing(self._connect(_PING)) as one:
                    one.ping()
                    return
            except EngineError:
                self.close()
                if time.monotonic() > deadline:
                    raise
            time.sleep(_WAIT)

    def _connect(self, timeout: float) -> docker.DockerClient:
        return docker.DockerClient(base_url=self._url, timeout=int(timeout))

    def check(self) -> str:
        """Return the engine's version if it is one that can run sealed layers.

        Raises:
            UnsupportedError: it is too old, or its containerd image store is off.
            EngineError: it does not answer.
        """
        with _translated("asking for its version"):
            info = self.client.info()
        version = str(info.get("ServerVersion", ""))
        kind = dict(info.get("DriverStatus") or []).get("driver-type", "")
        if kind != "io.containerd.snapshotter.v1" or info.get("Driver") != "overlayfs":
            raise UnsupportedError(
                "Docker's containerd image store is off: set "
                '{"features": {"containerd-snapshotter": true}} in /etc/docker/daemon.json'
            )
        if int(version.split(".")[0] or 0) < 25:
            raise UnsupportedError(f"Docker {version} is too old: sealed layers need Docker 25")
        return version

    def has_image(self, name: str) -> bool:
        """Say whether the engine knows an image under this name and can read it."""
        with _translated(f"looking for {name}"):
            try:
                self.client.images.get(name)
            except docker.errors.ImageNotFound:
                return False
        return True

    def load(self, name: str, top: Descriptor, documents: Mapping[str, bytes]) -> None:
        """Tell the engine of an image whose chain is already there: documents, no layer blobs.

        ``images/load`` answers 200 and hides a failure in its stream, so the stream is read.

        Args:
            name: what it will be known as, ``registry/repository@digest``.
            top: descriptor of the index or manifest that the name stands for.
            documents: index, manifest and config by digest.

        Raises:
            EngineError: the engine did not take it.
        """
        archive = load_archive(name, top, documents)
        with _translated(f"loading {name}"):
            for line in self.client.api.load_image(archive):  # type: ignore[no-untyped-call]
                if isinstance(line, dict) and line.get("error"):
                    raise EngineError(f"Docker refused image {name}: {line['error']}")

    def remove_image(self, name: str) -> None:
        """Remove an image by name; one the engine does not know is no error."""
        with _translated(f"removing image {name}"), contextlib.suppress(docker.errors.NotFound):
            self.client.api.remove_image(name, force=True)

    def containers(self, project: str = "") -> list[Container]:
        """Return Compose's containers, of one project or of all, one-off ones left out."""
        label = f"{PROJECT_LABEL}={project}" if project else PROJECT_LABEL
        found = []
        with _translated("listing containers"):
            for row in self.client.api.containers(all=True, filters={"label": [label]}):
                if (row.get("Labels") or {}).get(ONEOFF_LABEL) == "True":
                    continue
                try:
                    found.append(_container(self.client.api.inspect_container(row["Id"])))
                except docker.errors.NotFound:  # it went away between the two calls
                    continue
        return sorted(found, key=lambda container: container.name)

    def log_tail(self, container_id: str, lines: int = 20) -> str:
        """Return a container's last log lines, at most 8 KiB of text."""
        with _translated("reading a log"):
            data = self.client.api.logs(container_id, tail=lines, stdout=True, stderr=True)
        return bytes(data).decode("utf-8", "replace")[-8192:]

    def restart(self, container: Container) -> None:
        """Restart one container, which has its grace time to end; raises EngineError."""
        with _translated("restarting a container"):
            self.client.api.restart(container.id, timeout=container.grace)

    def stop(self, project: str) -> None:
        """Ask all containers of a project to end; each has its own grace time, ten minutes at most.

        Raises:
            EngineError: the engine does not stop one.
        """
        for container in self.containers(project):
            with _translated("stopping a container"), contextlib.suppress(docker.errors.NotFound):
                self.client.api.stop(container.id, timeout=container.grace)

    def remove_containers(self, project: str) -> None:
        """Remove all containers of a project, running ones too, at once; volumes stay."""
        for container in self.containers(project):
            self.remove_container(container.id)

    def remove_container(self, container_id: str) -> None:
        """Remove one container, running or not; one that is gone is no error; volumes stay."""
        with _translated("removing a container"), contextlib.suppress(docker.errors.NotFound):
            self.client.api.remove_container(container_id, force=True, v=False)

    def volumes(self, project: str) -> dict[str, str]:
        """Return the volumes of a project: their names by those and by what Compose files say."""
        filters = {"label": [f"{PROJECT_LABEL}={project}"]}
        found: dict[str, str] = {}
        with _translated(f"listing volumes of {project}"):
            for item in self.client.api.volumes(filters=filters).get("Volumes") or []:
                short = (item.get("Labels") or {}).get(VOLUME_LABEL, "")
                found |= {short: item["Name"], item["Name"]: item["Name"]}
        return {name: volume for name, volume in found.items() if name}

    def remove_volume(self, name: str) -> None:
        """Remove one volume by its name; raises EngineError where it is in use."""
        with _translated(f"removing volume {name}"):
            self.client.api.remove_volume(name)

    def remove_networks(self, project: str) -> None:
        """Remove the networks that Compose made for a project, but for those that others are on."""
        filters = {"label": [f"{PROJECT_LABEL}={project}"]}
        with _translated(f"removing networks of {project}"):
            for network in self.client.api.networks(filters=filters):
                with contextlib.suppress(docker.errors.NotFound):
                    found = self.client.api.inspect_network(network["Id"])
                    if not found.get("Containers"):
                        self.client.api.remove_network(network["Id"])


def load_archive(name: str, top: Descriptor, documents: Mapping[str, bytes]) -> io.BytesIO:
    """Return an OCI layout as a tar, as ``images/load`` takes it, deterministic."""
    entry = top.to_json() | {"annotations": {"io.containerd.image.name": name}}
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index, sort_keys=True).encode(),
    }
    files |= {f"blobs/sha256/{hex_of(digest)}": data for digest, data in documents.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    buffer.seek(0)
    return buffer


def _container(value: Mapping[str, Any]) -> Container:
    labels = value["Config"].get("Labels") or {}
    state = value["State"]
    return Container(
        id=value["Id"],
        name=str(value["Name"]).lstrip("/"),
        project=labels.get(PROJECT_LABEL, ""),
        service=labels.get(SERVICE_LABEL, ""),
        image=value["Config"].get("Image", ""),
        status=state.get("Status", ""),
        exit_code=int(state.get("ExitCode", 0)),
        health=(state.get("Health") or {}).get("Status", "").replace("none", ""),
        restarts=int(value.get("RestartCount", 0)),
        started_at=state.get("StartedAt", ""),
        grace=_grace(value["Config"]),
    )


def _grace(config: Mapping[str, Any]) -> int:
    wanted = config.get("StopTimeout")
    return _GRACE if wanted is None else min(int(wanted), _LONGEST_GRACE)
