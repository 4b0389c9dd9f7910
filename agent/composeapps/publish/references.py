"""Which files Compose files name that Compose's model no longer shows.

``docker compose config`` resolves ``include``, ``extends`` and ``env_file`` away. So those, and
nothing else, are looked up in the YAML itself; variables in them are replaced by Compose. What
this finds is checked afterwards: what was packed has to resolve to the same model.

Source: Compose specification (05-services, 14-include); where relative paths start from is seen
in compose-go's ``loader/extends.go`` and ``loader/include.go``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from composeapps.artifact import DOTENV, FILE_LIMIT
from composeapps.errors import ConfigError
from composeapps.publish.staging import is_remote

#: Compose files of one project; ``include`` and ``extends`` can be made to go on for ever.
FILES = 200

#: Replaces variables in texts; the second argument is the ``--env-file`` list.
Interpolate = Callable[[Sequence[str], Sequence[Path]], list[str]]
#: Refuses a path that Compose must not be asked to open: leading out of the tree, and so on.
Check = Callable[[str, str], None]


@dataclass
class References:
    """Absolute paths, as Compose sees them, each with what names it."""

    #: Included and extended Compose files.
    compose: dict[str, str] = field(default_factory=dict)
    #: Env and label files; those that a service may do without might not exist.
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _File:
    """One Compose file to read, and from where its relative paths start."""

    path: str
    directory: str
    env_files: tuple[Path, ...]
    #: Only these services count; None for all.
    services: frozenset[str] | None = None


def scan(
    files: Sequence[Path],
    directory: Path,
    env_files: Sequence[Path],
    interpolate: Interpolate,
    check: Check,
) -> References:
    """Return what Compose files name, and what the files they name, name.

    Args:
        check: is called with every path and what names it before it is opened.

    Raises:
        ConfigError: a file is missing or no YAML, is on another machine, or ``check`` refuses.
    """
    scanner = _Scanner(interpolate, check)
    for file in files:
        scanner.add(_File(str(file), str(directory), tuple(env_files)))
    return scanner.found


class _Scanner:
    def __init__(self, interpolate: Interpolate, check: Check) -> None:
        self.found = References()
        self._interpolate = interpolate
        self._check = check
        self._seen: set[_File] = set()

    def add(self, file: _File) -> None:
        if file in self._seen:
            return
        self._seen.add(file)
        if len(self._seen) > FILES:
            raise ConfigError(f"the project includes and extends more than {FILES} Compose files")
        documents = load(Path(file.path))
        for document in documents:
            if file.services is None:
                for entry in _list(document.get("include")):
                    self._include(file, entry)
            for name, service in _services(document, file.services):
                self._service(file, name, service)

    def _service(self, file: _File, name: str, service: Mapping[str, Any]) -> None:
        for key in ("env_file", "label_file"):
            raw = [_path_of(entry) for entry in _list(service.get(key))]
            for path in self._resolve(file, raw, file.directory):
                self._check(path, f"service {name}, {key}")
                self.found.env.setdefault(path, f"service {name}, {key}")
        extends = service.get("extends")
        if isinstance(extends, Mapping) and isinstance(extends.get("file"), str):
            raw = [extends["file"], str(extends.get("service", ""))]
            target, base = self._texts(file, raw)
            path = self._open(target, file.directory, f"service {name}, extends")
            self.add(_File(path, os.path.dirname(path), file.env_files, frozenset({base})))

    def _include(self, file: _File, entry: object) -> None:
        if isinstance(entry, str):
            entry = {"path": entry}
        if not isinstance(entry, Mapping):
            return
        raw = [text for text in _list(entry.get("path")) if isinstance(text, str)]
        paths = [self._open(text, file.directory, "include") for text in self._texts(file, raw)]
        if not paths:
            return
        directory = os.path.dirname(paths[0])
        if isinstance(entry.get("project_directory"), str):
            (directory,) = self._resolve(file, [entry["project_directory"]], file.directory)
            self._check(directory, "include, project_directory")
        env_files = self._include_env(file, entry, directory)
        for path in paths:
            # The variables of the including project win over the included one's.
            self.add(_File(path, directory, (*env_files, *file.env_files)))

    def _include_env(
        self, file: _File, entry: Mapping[str, Any], directory: str
    ) -> tuple[Path, ...]:
        raw = [text for text in _list(entry.get("env_file")) if isinstance(text, str)]
        paths = self._resolve(file, raw, file.directory)
        if not raw and os.path.exists(os.path.join(directory, DOTENV)):
            paths = [os.path.join(directory, DOTENV)]
        for path in paths:
            self._check(path, "include, env_file")
            self.found.env.setdefault(path, "include, env_file")
        return tuple(Path(path) for path in paths if os.path.exists(path))

    def _open(self, text: str, directory: str, what: str) -> str:
        if is_remote(text):
            raise ConfigError(
                f"{what}: {text} is on another machine; a device reads nothing from there, so "
                "bring the file into the project"
            )
        path = os.path.normpath(os.path.join(directory, text))
        self._check(path, what)
        self.found.compose.setdefault(path, what)
        return path

    def _resolve(self, file: _File, raw: Sequence[str], directory: str) -> list[str]:
        texts = self._texts(file, [text for text in raw if text])
        return [os.path.normpath(os.path.join(directory, text)) for text in texts]

    def _texts(self, file: _File, raw: Sequence[str]) -> list[str]:
        if not any("$" in text for text in raw):
            return list(raw)
        return self._interpolate(raw, file.env_files)


def load(path: Path) -> list[Mapping[str, Any]]:
    """Return the documents of a Compose file, every plain scalar as the text it is.

    Raises:
        ConfigError: the file is missing, too large, or not YAML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
        if len(data) > FILE_LIMIT:
            raise ConfigError(f"{path} is larger than {FILE_LIMIT} bytes")
        documents = list(yaml.load_all(data, Loader=_Loader))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path} is not YAML that can be read: {reason}") from error
    return [document for document in documents if isinstance(document, Mapping)]


class _Loader(yaml.SafeLoader):
    """YAML as Compose files use it; Compose's own tags (``!reset``, ``!override``) are let be."""


# Only merge keys mean something; every other plain scalar stays the text it is.
_Loader.yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("<<$"))]}


def _any_tag(loader: _Loader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return str(node.value)


_Loader.add_constructor(None, _any_tag)


def _services(
    document: Mapping[str, Any], wanted: frozenset[str] | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield services; of those wanted also what they extend in the same file."""
    services = document.get("services")
    if not isinstance(services, Mapping):
        return
    todo = list(services) if wanted is None else sorted(wanted)
    done = set()
    while todo:
        name = todo.pop(0)
        service = services.get(name)
        if name in done or not isinstance(service, Mapping):
            continue
        done.add(name)
        yield str(name), service
        extends = service.get("extends")
        if isinstance(extends, str):
            todo.append(extends)
        elif isinstance(extends, Mapping) and "file" not in extends:
            todo.append(extends.get("service"))


def _list(value: object) -> list[Any]:
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _path_of(entry: object) -> str:
    path = entry.get("path") if isinstance(entry, Mapping) else entry
    return path if isinstance(path, str) else ""
