"""A maker's Compose project, loaded by Compose itself, and all that a device will need of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composeapps import policy
from composeapps.artifact import DOTENV, check_name
from composeapps.compose import Compose, Project
from composeapps.config import EngineSettings
from composeapps.errors import ConfigError
from composeapps.oci import Platform
from composeapps.process import ProcessError
from composeapps.publish.needs import Needs, judge, outside
from composeapps.publish.references import References, scan
from composeapps.publish.staging import Side, Stage, staged

#: What Compose looks for, in its order (compose-go, ``cli.DefaultFileNames`` and override names).
DEFAULT_FILES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
DEFAULT_OVERRIDES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
#: Project name while publishing; a device gives the app's.
NAME = "app"
_UNSET = re.compile(r'[\\"]+([A-Za-z_][A-Za-z0-9_]*)[\\"]+ variable is not set')
_COMPOSE_FILE = re.compile(r"^\s*(?:export\s+)?COMPOSE_FILE\s*[=:]", re.MULTILINE)
_PLACEHOLDER = "{project}"


@dataclass(frozen=True)
class Sources:
    """What a maker names on the command line."""

    #: Project directory.
    directory: Path
    #: Compose and env files, absolute or relative to the project directory; none for Compose's
    #: own choice.
    files: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    #: Directory that holds all files of the project; None for the project directory.
    root: Path | None = None
    #: Profiles that devices run, besides those of ``x-composeapps``.
    profiles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """A project as Compose sees it. All names are relative to ``root``."""

    root: Path
    directory: str
    compose: tuple[str, ...]
    env_files: tuple[str, ...]
    #: Further files that Compose files name: included and extended ones, env files.
    extended: frozenset[str]
    environments: frozenset[str]
    profiles: tuple[str, ...]
    needs: Needs
    #: Compose's canonical model, all profiles on, the tree's path replaced.
    model: Mapping[str, Any] = field(repr=False)

    @property
    def images(self) -> dict[str, str]:
        """Image by service, as the files name it."""
        return {name: value["image"] for name, value in self.model["services"].items()}


def load(sources: Sources, program: Sequence[str], platforms: Sequence[Platform]) -> Loaded:
    """Load and judge a project.

    Args:
        program: how Compose is started, like ``("docker", "compose")``.
        platforms: that the app is published for.

    Raises:
        ConfigError: Compose cannot read it, or a device could not run it; says everything that is
            wrong with it.
        ProcessError: Compose is not installed.
    """
    root, directory = _tree(sources)
    with staged(root, directory) as stage:
        env_files = [_inside(stage, name, "--env-file") for name in _env_files(sources)]
        named = _files(sources, lambda texts: _Loader(stage, program, (), env_files).fill(texts))
        files = [_inside(stage, name, "-f") for name in named]
        if len(set(files)) != len(files):
            raise ConfigError("a Compose file is named twice")
        return inspect(stage, files, env_files, program, platforms, sources.profiles)


def inspect(
    stage: Stage,
    files: Sequence[str],
    env_files: Sequence[str],
    program: Sequence[str],
    platforms: Sequence[Platform],
    profiles: tuple[str, ...] = (),
) -> Loaded:
    """Load and judge a staged project, a maker's or one from an artifact; raises as ``load``.

    Args:
        files, env_files: for Compose's flags, relative to the tree.
    """
    loader = _Loader(stage, program, files, env_files)
    found = loader.references()
    model = loader.model()
    needs = judge(model, stage, platforms)
    policy.parse(model, str(stage.root), strict=True)
    _note_references(found, stage, needs)
    for name in sorted(loader.unset):
        text = f"variable {name}, which is not set here: empty, unless its env file sets it"
        needs.note("device", text)
    needs.check()
    return Loaded(
        stage.root,
        os.path.relpath(stage.project, stage.link),
        tuple(files),
        tuple(env_files),
        _names(found.compose, stage),
        _names(found.env, stage),
        profiles,
        needs,
        comparable(model, stage.link),
    )


def comparable(model: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return a model in which only what a device uses is left, and its tree's path is replaced."""
    text = json.dumps(model, sort_keys=True).replace(json.dumps(str(root))[1:-1], _PLACEHOLDER)
    value: dict[str, Any] = json.loads(text)
    for service in (value.get("services") or {}).values():
        service.pop("build", None)
        service.pop("develop", None)
    return value


class _Loader:
    """Asks Compose about one staged project."""

    def __init__(
        self, stage: Stage, program: Sequence[str], files: Sequence[str], env_files: Sequence[str]
    ) -> None:
        #: Variables that no file gave a value.
        self.unset: set[str] = set()
        self._stage = stage
        self._compose = offline_compose(program, environment=stage.environment, warn=self._listen)
        self._project = Project(
            NAME,
            stage.project,
            tuple(stage.path(name) for name in files),
            tuple(stage.path(name) for name in env_files),
        )

    def references(self) -> References:
        project = self._project
        try:
            return scan(
                project.files, project.directory, project.env_files, self._interpolate, self._check
            )
        except ConfigError as error:
            raise ConfigError(self._stage.plain(str(error))) from error

    def model(self) -> dict[str, Any]:
        return self._config(self._project)

    def fill(self, texts: Sequence[str]) -> list[str]:
        """Return texts with the variables in them replaced by Compose."""
        return self._interpolate(texts, self._project.env_files)

    def _config(self, project: Project) -> dict[str, Any]:
        try:
            return self._compose.config(project, every_profile=True)
        except ProcessError as error:
            if not error.stderr:
                raise
            raise ConfigError(f"Compose: {self._stage.plain(complaint(error))}") from error

    def _interpolate(self, texts: Sequence[str], env_files: Sequence[Path]) -> list[str]:
        labels = {str(number): text for number, text in enumerate(texts)}
        file = self._stage.scratch / "variables.yaml"
        file.write_text(json.dumps({"services": {"x": {"image": "x", "labels": labels}}}))
        project = Project(NAME, self._stage.project, (file,), tuple(env_files))
        found = self._config(project)["services"]["x"]["labels"]
        return [found[str(number)] for number in range(len(texts))]

    def _check(self, path: str, where: str) -> None:
        side, name = self._stage.judge(path)
        if side is Side.DEVICE:
            if where == "include" or where.endswith("extends"):
                raise ConfigError(
                    f"{where}: {name} is an absolute path; a device reads Compose files from the "
                    "app only, so bring it into the project"
                )
        elif side is not Side.INSIDE:
            raise ConfigError(f"{where}: {outside(side, name, self._stage.root)}")

    def _listen(self, text: str) -> None:
        self.unset.update(_UNSET.findall(text))


def offline_compose(program: Sequence[str], **options: Any) -> Compose:
    """Return a Compose that only reads files, however a machine's Docker is set up."""
    return Compose(EngineSettings(compose=tuple(program), docker="unix:///nonexistent"), **options)


def complaint(error: ProcessError) -> str:
    """Return what Compose says is wrong, on one line and without what it logs besides."""
    lines = [line.strip() for line in error.stderr.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("time="))[:500]


def _tree(sources: Sources) -> tuple[Path, str]:
    """Return the tree's root and the project directory in it."""
    directory = Path(os.path.realpath(sources.directory))
    if not directory.is_dir():
        raise ConfigError(f"{sources.directory} is not a directory")
    root = Path(os.path.realpath(sources.root or directory))
    if not directory.is_relative_to(root):
        raise ConfigError(f"{sources.directory} does not lie in {sources.root}")
    relative = str(directory.relative_to(root))
    return root, relative if relative == "." else check_name(relative, "the project")


def _files(sources: Sources, fill: Callable[[Sequence[str]], list[str]]) -> list[str]:
    """Return the Compose files: those named, else those of ``.env``, else the usual ones."""
    if sources.files:
        return list(sources.files)
    dotenv = sources.directory / DOTENV
    uses_dotenv = dotenv.is_file() and not sources.env_files
    if uses_dotenv and _COMPOSE_FILE.search(dotenv.read_text("utf-8", "replace")):
        names, separator = fill(["${COMPOSE_FILE:-}", "${COMPOSE_PATH_SEPARATOR:-:}"])
        return [name for name in names.split(separator) if name]
    found = []
    for choices in (DEFAULT_FILES, DEFAULT_OVERRIDES):
        found += [name for name in choices if (sources.directory / name).is_file()][:1]
    if not found or found[0] in DEFAULT_OVERRIDES:
        raise ConfigError(f"{sources.directory} has no {DEFAULT_FILES[0]}: name a file with -f")
    return found


def _env_files(sources: Sources) -> list[str]:
    if sources.env_files:
        return list(sources.env_files)
    return [DOTENV] if (sources.directory / DOTENV).is_file() else []


def _inside(stage: Stage, name: str, flag: str) -> str:
    """Return a file that a flag names, relative to the tree."""
    path = Path(name)
    if path.is_absolute():
        real = Path(os.path.realpath(path.parent), path.name)
        inside = real.is_relative_to(stage.root)
        staged_path = str(stage.link / real.relative_to(stage.root)) if inside else str(real)
    else:
        staged_path = str(stage.project / path)
    side, relative = stage.judge(staged_path)
    if side is not Side.INSIDE:
        raise ConfigError(f"{flag} {name} is outside of {stage.root}: move it in, or use --root")
    if not (stage.root / relative).is_file():
        raise ConfigError(f"{flag} {name} does not exist")
    return check_name(relative, "the project")


def _note_references(found: References, stage: Stage, needs: Needs) -> None:
    for path, where in {**found.env, **found.compose}.items():
        side, name = stage.judge(path)
        if side is Side.DEVICE:
            needs.note("device", f"{name} ({where})")
        elif os.path.lexists(stage.root / name):
            needs.paths.setdefault(name, where)


def _names(paths: Iterable[str], stage: Stage) -> frozenset[str]:
    judged = [stage.judge(path) for path in paths]
    return frozenset(
        name for side, name in judged if side is Side.INSIDE and (stage.root / name).is_file()
    )
