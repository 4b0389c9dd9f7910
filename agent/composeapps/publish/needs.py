"""What a project needs besides its Compose files: packed, left to the device, or refused.

One sentence for each. The rule: what lies in the project is packed at its place, what is absolute
is the device's, and what no device could have is refused here and not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from composeapps.errors import ConfigError
from composeapps.oci import Platform
from composeapps.publish.staging import Side, Stage

#: Files that keep an otherwise empty directory in a version control system.
_KEEPERS = frozenset({".gitkeep", ".gitignore", ".keep"})
_VOLUME_ADVICE = (
    "what an app writes into its project directory is lost with the next update, so keep data in "
    "a named volume"
)


@dataclass(frozen=True)
class Note:
    """One sentence about what publishing does with something."""

    kind: Literal["packed", "device", "ignored", "warning"]
    text: str

    def __str__(self) -> str:
        word = {"device": "left to the device"}.get(self.kind, self.kind)
        return f"{word}: {self.text}"


@dataclass
class Needs:
    """What is to be packed (relative to the tree, with what needs it), and all that is to say."""

    paths: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def note(self, kind: Literal["packed", "device", "ignored", "warning"], text: str) -> None:
        """Add a sentence, once."""
        if Note(kind, text) not in self.notes:
            self.notes.append(Note(kind, text))

    def check(self) -> None:
        """Raise ConfigError with all problems, if there are any."""
        if self.problems:
            raise ConfigError("\n".join(dict.fromkeys(self.problems)))


def judge(model: Mapping[str, Any], stage: Stage, platforms: Sequence[Platform]) -> Needs:
    """Judge Compose's canonical model of a staged project, all profiles on.

    Args:
        platforms: that the app is published for.
    """
    judged = _Judge(stage, platforms)
    if not model.get("services"):
        judged.needs.problems.append(f"{stage.root} has no services: there is nothing to run")
    for name, service in _items(model, "services"):
        judged.service(name, service)
    for kind in ("configs", "secrets"):
        for name, value in _items(model, kind):
            judged.file_object(kind[:-1], name, value)
    for kind in ("networks", "volumes"):
        for name, value in _items(model, kind):
            judged.engine_object(kind[:-1], name, value)
    return judged.needs


class _Judge:
    def __init__(self, stage: Stage, platforms: Sequence[Platform]) -> None:
        self.needs = Needs()
        self._stage = stage
        self._platforms = platforms

    def service(self, name: str, service: Mapping[str, Any]) -> None:
        where = f"service {name}"
        for key in ("provider", "models"):
            if service.get(key):
                self._refuse(f"{where} has {key}:, which the Docker Engine does not run")
        if not service.get("image"):
            self._refuse(
                f"{where} has no image: build it, push it, and name it with image: (build: is "
                "not used on a device)"
            )
        elif service.get("build"):
            self.needs.note("ignored", f"{where}: build:, the image is taken as it was pushed")
        if service.get("develop"):
            self.needs.note("ignored", f"{where}: develop:, which is for a workstation")
        self._platform(where, service.get("platform"))
        for mount in service.get("volumes") or []:
            self._mount(where, mount)
        for option in service.get("security_opt") or []:
            self._security(where, str(option))

    def file_object(self, kind: str, name: str, value: Mapping[str, Any]) -> None:
        where = f"{kind} {name}"
        if value.get("external"):
            self._refuse(f"{where} is external, which only Swarm has: use file: or environment:")
        elif value.get("environment"):
            text = f"{where}: variable {value['environment']}, from the device's own env file"
            self.needs.note("device", text)
        elif value.get("file"):
            self._path(str(value["file"]), f"{where}", missing="")
            if kind == "secret" and self._stage.judge(str(value["file"]))[0] is Side.INSIDE:
                text = f"{where} is packed, so whoever can read the app can read it"
                self.needs.note("warning", text)

    def engine_object(self, kind: str, name: str, value: Mapping[str, Any]) -> None:
        where = f"{kind} {name}"
        if value.get("external"):
            real = value.get("name", name)
            text = f"external {where} ({real}), which has to be there before the app starts"
            self.needs.note("device", text)
        options = value.get("driver_opts") or {}
        device = str(options.get("device", ""))
        if kind == "volume" and "bind" in str(options.get("o", "")):
            side, path = self._stage.judge(os.path.join(self._stage.project, device))
            if side is Side.DEVICE:
                self.needs.note("device", f"{path} ({where})")
            else:
                self._refuse(f"{where} lies in {path}: {_VOLUME_ADVICE} without driver_opts")

    def _mount(self, where: str, mount: Mapping[str, Any]) -> None:
        source, kind = str(mount.get("source", "")), mount.get("type")
        if kind == "image":
            self._refuse(f"{where} mounts image {source}, which is not supported yet: use a volume")
        if kind != "bind":
            return
        where = f"{where}, mounted at {mount.get('target')}"
        side, path = self._stage.judge(source)
        real = self._stage.root / path
        if side is Side.INSIDE and real.is_dir() and not mount.get("read_only"):
            if set(os.listdir(real)) <= _KEEPERS:
                self._refuse(f"{where}: {path} is an empty directory: {_VOLUME_ADVICE}")
                return
            self.needs.note("warning", f"{where}: {path} is writable, but {_VOLUME_ADVICE}")
        self._path(source, where, missing=f"; {_VOLUME_ADVICE}")

    def _security(self, where: str, option: str) -> None:
        key, _, value = option.replace("=", ":", 1).partition(":")
        if key == "seccomp" and value not in ("unconfined", "builtin"):
            # Compose reads the profile itself, from below the project directory.
            path = os.path.join(self._stage.project, value)
            self._path(os.path.normpath(path), f"{where}, security_opt", missing="")

    def _platform(self, where: str, text: object) -> None:
        if not isinstance(text, str) or not text:
            return
        own = Platform.parse(text)
        for wanted in self._platforms:
            if not own.matches(wanted):
                self._refuse(f"{where} says platform: {text}, so it cannot run on {wanted}")

    def _path(self, path: str, where: str, *, missing: str) -> None:
        side, name = self._stage.judge(path)
        if side is Side.DEVICE:
            self.needs.note("device", f"{name} ({where})")
        elif side is Side.INSIDE:
            if os.path.lexists(self._stage.root / name):
                self.needs.paths.setdefault(name, where)
            else:
                self._refuse(f"{where}: {name} does not exist{missing}")
        else:
            self._refuse(f"{where}: {outside(side, name, self._stage.root)}")

    def _refuse(self, sentence: str) -> None:
        self.needs.problems.append(sentence)


def outside(side: Side, name: str, root: Path) -> str:
    """Say why a path cannot be packed."""
    if side is Side.ABOVE:
        return f"{name} is above {root}: move it into the project, or publish with --root"
    if side is Side.HOME:
        return f"{name} is in a person's home directory, which a device does not have"
    return f"{name} is an absolute path into the project: write it relative, with ./ in front"


def _items(model: Mapping[str, Any], key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, value in sorted((model.get(key) or {}).items()):
        yield name, value or {}
