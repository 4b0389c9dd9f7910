"""How Compose is started: everything said by flags, nothing of the caller's environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from blobs import Blobs

from composeapps import artifact
from composeapps.compose import Compose, Project, images_of, leans_on_others
from composeapps.config import EngineSettings
from composeapps.errors import EngineError
from composeapps.process import ProcessError

#: Stands in for a Compose whose answer we choose; what it was asked lands in a file.
RECORDER = """\
#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word"; done > "$PWD/argv"
env > "$PWD/env"
cat "$PWD/answer"
echo 'level=warning "x"' >&2
exit "$(cat "$PWD/code")"
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    program = tmp_path / "compose"
    program.write_text(RECORDER)
    program.chmod(0o755)
    (tmp_path / "answer").write_text("{}")
    (tmp_path / "code").write_text("0")
    files = (tmp_path / "compose.yaml", tmp_path / "more.yaml")
    return Project("web", tmp_path, files, (tmp_path / ".env",), ("field",))


def compose(project: Project, **options: Any) -> Compose:
    program = (str(project.directory / "compose"),)
    return Compose(EngineSettings(compose=program, docker="unix:///run/d.sock"), **options)


def asked(project: Project) -> str:
    return " ".join((project.directory / "argv").read_text().splitlines())


def flags(project: Project, profile: str) -> str:
    at = project.directory
    return (
        f"--project-name web --project-directory {at} --file {at}/compose.yaml "
        f"--file {at}/more.yaml --env-file {at}/.env --profile {profile}"
    )


def test_verbs_say_everything(project: Project) -> None:
    runner = compose(project)
    runner.up(project, timeout=5)
    up = "up --detach --pull never --no-build --remove-orphans"
    assert asked(project) == f"{flags(project, 'field')} {up}"
    runner.stop(project, grace=3)
    assert asked(project) == f"{flags(project, '*')} stop --timeout 3"
    runner.down(project)
    assert asked(project) == f"{flags(project, '*')} down --remove-orphans"
    assert runner.config(project) == {}
    assert asked(project) == f"{flags(project, 'field')} config --format json"
    runner.config(project, every_profile=True)
    assert asked(project) == f"{flags(project, '*')} config --format json"


def test_projects_come_up_together_each_as_alone(project: Project, tmp_path: Path) -> None:
    other = Project("other", tmp_path / "other", project.files)
    other.directory.mkdir()
    for name in ("answer", "code"):
        (other.directory / name).write_text((tmp_path / name).read_text())
    runner = compose(project)
    runner.up(project, timeout=5)
    alone, seen = asked(project), (tmp_path / "env").read_text()
    runner.up_together([(project, 5), (other, 5)])
    assert asked(project) == alone
    assert (tmp_path / "env").read_text() == seen
    assert "--project-name other " in asked(other)
    (tmp_path / "code").write_text("3")
    (other.directory / "argv").unlink()
    with pytest.raises(ProcessError, match=r"--project-name web .* ended with 3"):
        runner.up_together([(project, 5), (other, 5)])
    assert "--project-name other " in asked(other), "one that fails does not end the others"


@pytest.mark.parametrize(
    ("model", "leans"),
    [
        ({}, False),
        ({"networks": {"default": {"name": "a_default"}}, "volumes": {"x": None}}, False),
        ({"networks": {"shared": {"external": True}}}, True),
        ({"volumes": {"shared": {"external": True}}}, True),
        ({"services": {"a": {"network_mode": "service:b"}, "b": None}}, False),
        ({"services": {"a": {"network_mode": "container:b-b-1"}}}, True),
        ({"services": {"a": {"volumes_from": ["b:ro"]}}}, False),
        ({"services": {"a": {"volumes_from": ["container:b:ro"]}}}, True),
        ({"services": {"a": {"pid": "container:b"}}}, True),
    ],
)
def test_what_leans_on_other_projects(model: dict[str, Any], leans: bool) -> None:
    assert leans_on_others(model) == leans


def test_volumes_are_never_removed(project: Project) -> None:
    runner = compose(project)
    for verb in (runner.stop, runner.down, lambda one: runner.up(one, timeout=5)):
        verb(project)
        assert not {"-v", "--volumes", "--rmi", "-V"} & set(asked(project).split())


def test_environment_is_clean(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COMPOSE_PROFILES", "COMPOSE_FILE", "DOCKER_CONTEXT", "DOCKER_CONFIG", "MINE"):
        monkeypatch.setenv(name, "hostile")
    monkeypatch.setenv("DOCKER_HOST", "tcp://hostile")
    compose(project, environment={"OURS": "1"}).config(project)
    found = dict(
        line.split("=", 1) for line in (project.directory / "env").read_text().splitlines()
    )
    assert found.pop("PWD") == str(project.directory)
    assert found["DOCKER_HOST"] == "unix:///run/d.sock"
    assert found["COMPOSE_IGNORE_ORPHANS"] == "false"
    assert found["OURS"] == "1"
    assert "hostile" not in str(found)


def test_without_env_files_none_is_searched_for(project: Project) -> None:
    bare = Project("web", project.directory, project.files)
    line = compose(project).argv(bare, ["ps"])
    assert line[line.index("--env-file") + 1] == os.devnull
    assert "--profile" not in line


def test_what_is_no_answer_is_an_error(project: Project) -> None:
    runner = compose(project)
    for text in ("", "no json", "[1]", "[" * 100_000):
        (project.directory / "answer").write_text(text)
        with pytest.raises(EngineError, match="docker compose config of web"):
            runner.config(project)
    (project.directory / "code").write_text("14")
    with pytest.raises(ProcessError, match='ended with 14: level=warning "x"'):
        runner.config(project)


def test_ps_reads_lines_and_the_older_list(project: Project) -> None:
    one, two = {"Service": "a"}, {"Service": "b"}
    runner = compose(project)
    for text in (f"{json.dumps(one)}\n{json.dumps(two)}\n", json.dumps([one, two])):
        (project.directory / "answer").write_text(text)
        assert runner.ps(project) == [one, two]
    (project.directory / "answer").write_text("")
    assert runner.ps(project) == []
    (project.directory / "answer").write_text("{")
    with pytest.raises(EngineError, match="docker compose ps of web"):
        runner.ps(project)


def test_warnings_are_handed_on(project: Project) -> None:
    heard: list[str] = []
    compose(project, warn=heard.append).config(project)
    assert heard == ['level=warning "x"\n']


def test_images_of_a_model(project: Project) -> None:
    model = {"services": {"a": {"image": "x"}, "b": {"image": "x"}, "c": {"image": "y"}}}
    (project.directory / "answer").write_text(json.dumps(model))
    assert compose(project).images(project) == {"x", "y"}
    for service in ({}, None, {"image": ""}, {"image": 5}):
        with pytest.raises(EngineError, match="app web: service a names no image"):
            images_of({"services": {"a": service}}, "web")


def test_project_of_an_unpacked_artifact() -> None:
    blobs = Blobs()
    layers = [blobs.compose_file("", "web/a.yaml"), blobs.compose_file("", "b.yaml")]
    annotations = {artifact.DIRECTORY: "web", artifact.ENV_FILES: '["web/.env"]'}
    descriptor = blobs.artifact(layers, annotations=annotations)
    parsed = artifact.parse(blobs[descriptor["digest"]], "app")
    found = Project.unpacked(
        "x", parsed, Path("/r"), env_files=[Path("/etc/x.env")], profiles=["p"]
    )
    assert found == Project(
        "x",
        Path("/r/web"),
        (Path("/r/web/a.yaml"), Path("/r/b.yaml")),
        (Path("/r/web/.env"), Path("/etc/x.env")),
        ("p",),
    )
