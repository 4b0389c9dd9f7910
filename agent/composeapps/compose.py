"""The one place that runs Docker Compose: the maker's files, a clean environment, nothing added.

What Compose reads besides its files is always said here: project name, directory, files, env files
and engine by flags and variables of ours. No ``COMPOSE_*`` or ``DOCKER_*`` variable of the caller
is passed on, ``PWD`` is the project directory. An app's own ``.env`` still may set ``COMPOSE_*``
variables, as it may on any machine; those that would work against us are set first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composeapps import process
from composeapps.artifact import Artifact
from composeapps.config import EngineSettings
from composeapps.errors import EngineError

#: Seconds for commands that only read files, and for those that only ask the engine.
_READ_TIMEOUT = 60.0
_ASK_TIMEOUT = 120.0
#: Seconds that removing networks and containers may take besides the time to stop services.
_SLACK = 120.0
#: Projects that come up at the same time; each takes a Compose process of some 30 MB.
_SIDE_BY_SIDE = 3
_UP = ("up", "--detach", "--pull", "never", "--no-build", "--remove-orphans")
EVERY_PROFILE = ("*",)


@dataclass(frozen=True)
class Project:
    """One Compose project on this machine."""

    name: str
    #: Project directory; absolute.
    directory: Path
    #: Compose files in override order; absolute.
    files: tuple[Path, ...]
    #: ``--env-file``, the last wins; absolute. None given means that nothing is interpolated from
    #: files: Compose's own search for ``.env`` is not used.
    env_files: tuple[Path, ...] = ()
    #: Profiles that run; services without profile always do.
    profiles: tuple[str, ...] = ()

    @classmethod
    def unpacked(
        cls,
        name: str,
        artifact: Artifact,
        root: Path,
        *,
        env_files: Sequence[Path] = (),
        profiles: Sequence[str] = (),
    ) -> Project:
        """Return the project that ``projectdir.unpack`` made of an artifact.

        Args:
            root: where it was unpacked.
            env_files: the device's own, which win over the artifact's; those that exist.
        """
        return cls(
            name,
            root / artifact.directory,
            tuple(root / file.name for file in artifact.compose),
            (*(root / file for file in artifact.env_files), *env_files),
            tuple(profiles),
        )


class Compose:
    """Runs Compose's program against one engine."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        environment: Mapping[str, str] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Use an engine.

        Args:
            environment: variables added to the clean environment.
            warn: gets what Compose says besides its result.
        """
        self._warn = warn
        self._program = settings.compose
        self._environment = {
            "DOCKER_HOST": settings.docker,
            # Else an app's .env could forbid --remove-orphans, or lead to another engine.
            "COMPOSE_IGNORE_ORPHANS": "false",
            "DOCKER_TLS_VERIFY": "",
            "DOCKER_CONTEXT": "",
            **(environment or {}),
        }

    def config(self, project: Project, *, every_profile: bool = False) -> dict[str, Any]:
        """Return Compose's canonical model of a project.

        Args:
            every_profile: all services, not only those of the project's profiles.

        Raises:
            ProcessError: Compose cannot read the project; its reason is in the message.
            EngineError: it printed something else than JSON.
        """
        if every_profile:
            project = _with_every_profile(project)
        output = self._run(project, ["config", "--format", "json"], _READ_TIMEOUT)
        try:
            model = json.loads(output)
        except (ValueError, RecursionError) as error:
            raise EngineError(f"docker compose config of {project.name}: {error}") from error
        if not isinstance(model, dict):
            raise EngineError(f"docker compose config of {project.name} printed no object")
        return model

    def images(self, project: Project) -> set[str]:
        """Return the images of all services, whatever their profile, as the files name them.

        Raises:
            ProcessError: Compose cannot read the project.
            EngineError: a service has no image.
        """
        return images_of(self.config(project, every_profile=True), project.name)

    def up(self, project: Project, *, timeout: float, recreate: bool = False) -> None:
        """Make the engine run the project as its files say; images have to be there.

        Args:
            timeout: seconds; services that others wait for (``depends_on`` with a condition) have
                to get there in this time too.
            recreate: replace containers even where nothing changed.

        Raises:
            ProcessError: it did not come up.
        """
        self._run(project, [*_UP, *(["--force-recreate"] if recreate else [])], timeout)

    def up_together(self, projects: Sequence[tuple[Project, float]]) -> None:
        """Bring several projects up side by side, a few at a time, each as ``up`` does.

        Most of the time of an ``up`` is waiting for services that others depend on.

        Args:
            projects: each with its seconds, as in ``up``.

        Raises:
            ProcessError: one did not come up; the others were tried.
        """
        jobs = [
            process.Job(self.argv(project, _UP), timeout, project.directory, self._environment)
            for project, timeout in projects
        ]
        process.run_together(jobs, _SIDE_BY_SIDE)

    def stop(self, project: Project, *, grace: float | None = None) -> None:
        """Stop all containers and keep them.

        Args:
            grace: seconds before a container is killed; None is each service's own.

        Raises:
            ProcessError: the engine did not stop them.
        """
        self._run(_with_every_profile(project), ["stop", *_grace(grace)], (grace or 0) + _SLACK)

    def down(self, project: Project, *, grace: float | None = None) -> None:
        """Stop and remove containers and networks; volumes are never removed.

        Raises:
            ProcessError: the engine did not remove them.
        """
        command = ["down", "--remove-orphans", *_grace(grace)]
        self._run(_with_every_profile(project), command, (grace or 0) + _SLACK)

    def ps(self, project: Project) -> list[dict[str, Any]]:
        """Return Compose's list of all containers of the project, stopped ones too.

        Raises:
            ProcessError: the engine does not answer.
            EngineError: Compose printed something else than JSON.
        """
        command = ["ps", "--all", "--no-trunc", "--format", "json"]
        output = self._run(_with_every_profile(project), command, _ASK_TIMEOUT)
        try:
            # One object a line since Compose 2.21; a list before.
            values = [json.loads(line) for line in output.splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise EngineError(f"docker compose ps of {project.name}: {error}") from error
        return values[0] if values and isinstance(values[0], list) else values

    def argv(self, project: Project, command: Sequence[str]) -> list[str]:
        """Return the whole command line, for a person to paste and for programs that stream."""
        flags = ["--project-name", project.name, "--project-directory", str(project.directory)]
        for file in project.files:
            flags += ["--file", str(file)]
        for file in project.env_files or (Path(os.devnull),):
            flags += ["--env-file", str(file)]
        for profile in project.profiles:
            flags += ["--profile", profile]
        return [*self._program, *flags, *command]

    @property
    def environment(self) -> Mapping[str, str]:
        """What is added to the clean environment of ``process``."""
        return self._environment

    def _run(self, project: Project, command: Sequence[str], timeout: float) -> bytes:
        return process.run(
            self.argv(project, command),
            timeout=timeout,
            cwd=project.directory,
            env=self._environment,
            warn=self._warn,
        )


def images_of(model: Mapping[str, Any], name: str) -> set[str]:
    """Return the images that a canonical model names; raises EngineError where one is missing."""
    images = set()
    for service, value in (model.get("services") or {}).items():
        image = (value or {}).get("image")
        if not isinstance(image, str) or not image:
            raise EngineError(f"app {name}: service {service} names no image")
        images.add(image)
    return images


def has_profiles(model: Mapping[str, Any]) -> bool:
    """Say whether some services run only with a profile."""
    return any((value or {}).get("profiles") for value in (model.get("services") or {}).values())


def leans_on_others(model: Mapping[str, Any]) -> bool:
    """Say whether a project uses what another one may have to make first.

    External networks and volumes, and other projects' containers (Compose specification:
    ``external``, ``container:`` in network_mode, ipc, pid and volumes_from).
    """
    for kind in ("networks", "volumes"):
        if any((value or {}).get("external") for value in (model.get(kind) or {}).values()):
            return True
    for service in (model.get("services") or {}).values():
        values = [(service or {}).get(key) for key in ("network_mode", "ipc", "pid")]
        values += (service or {}).get("volumes_from") or []
        if any(str(value).startswith("container:") for value in values):
            return True
    return False


def _with_every_profile(project: Project) -> Project:
    return Project(project.name, project.directory, project.files, project.env_files, EVERY_PROFILE)


def _grace(grace: float | None) -> list[str]:
    return [] if grace is None else ["--timeout", str(int(grace))]
