"""Projects as people write them, published by real Compose: a device gets what they wrote."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from projectparts import AMD64, COMPOSE, DIGEST, MINIMAL, notes, publish, unpacked
from stock import write

from composeapps import artifact
from composeapps.errors import ConfigError
from composeapps.publish import artifact as making
from composeapps.publish.project import Sources, load
from demo.projects import SMALL, write_project

pytestmark = pytest.mark.usefixtures("hostile_environment")


def projects() -> list[Any]:
    found = sorted(path for path in SMALL.iterdir() if path.is_dir())
    return [pytest.param(path, id=path.name) for path in found]


@pytest.mark.parametrize("project", projects())
def test_small_projects_of_one_feature_each(project: Path, tmp_path: Path) -> None:
    loaded, packed = publish(project)
    model = unpacked(packed, tmp_path / "device")
    assert model["services"].keys() == loaded.model["services"].keys()
    images = {service["image"] for service in model["services"].values()}
    assert all(image.endswith(f"@sha256:{DIGEST}") for image in images)


@pytest.mark.parametrize("name", ["web", "telemetry"])
def test_demo_projects(name: str, tmp_path: Path) -> None:
    publish(write_project(name, 1, tmp_path))


def test_everything_at_once(tmp_path: Path) -> None:
    project = write(
        tmp_path / "maker",
        {
            "compose.yaml": """
include: [parts/db/compose.yaml, {path: [parts/log.yaml, parts/log.more.yaml], env_file: l.env}]
x-base: &base {restart: always, env_file: web.env}
services:
  web:
    <<: *base
    image: nginx:${TAG:-1}
    env_file: [web.env, {path: missing.env, required: false}]
    volumes: ["./conf:/etc/conf:ro", "${PWD}/conf/a:/a:ro", "data:/data", "/dev/null:/n"]
    configs: [plain, inline]
    secrets: [file, variable]
    depends_on: {db: {condition: service_healthy}}
    deploy: {replicas: 2}
    security_opt: ["seccomp:seccomp.json"]
  shared: {extends: {file: "${COMMON}/base.yaml", service: leaf}, profiles: [debug]}
configs: {plain: {file: ./conf/plain}, inline: {content: "x ${TAG}"}}
secrets: {file: {file: ./key}, variable: {environment: TOKEN}}
volumes: {data: {}, outer: {external: true, name: old}}
networks: {default: {}, front: {external: true}}
x-composeapps: {health_timeout: 2m, profiles: [debug]}
""",
            "compose.override.yaml": "services: {web: {networks: [default, front], "
            "environment: [E=1], volumes: ['outer:/o']}}",
            ".env": "TAG=1.27\nCOMMON=common\n",
            "web.env": "A=1\nB=${TAG}\n",
            "l.env": "LOG=debug\n",
            "conf/a": "a",
            "conf/plain": "p",
            "key": "k",
            "seccomp.json": "{}",
            "common/base.yaml": "services: {root: {image: busybox, env_file: ./b.env}, leaf: "
            "{extends: root, volumes: ['./d:/d:ro']}, unused: {image: x, env_file: no.env}}",
            "common/b.env": "B=1",
            "common/no.env": "of a service that nobody extends",
            "common/d/keep": "",
            "parts/db/compose.yaml": "services: {db: {image: 'postgres:${PG}', env_file: db.env, "
            "healthcheck: {test: [CMD, 'true']}}}",
            "parts/db/.env": "PG=16\n",
            "parts/db/db.env": "P=1\n",
            "parts/log.yaml": "services: {log: {image: fluent, command: ['${LOG}']}}",
            "parts/log.more.yaml": "services: {log: {image: fluentd}}",
        },
    )
    loaded, packed = publish(project)
    assert loaded.images["web"] == "nginx:1.27"
    assert loaded.images["db"] == "postgres:16"
    model = unpacked(packed, tmp_path / "device")
    assert model["services"]["web"]["environment"] == {"A": "1", "B": "1.27", "E": "1"}
    assert model["services"]["log"]["command"] == ["debug"]
    assert model["services"]["shared"]["environment"] == {"B": "1"}
    assert (tmp_path / "device/parts/db/db.env").read_text() == "P=1\n"
    assert not (tmp_path / "device/common/no.env").exists()
    assert sorted(path.name for path in (tmp_path / "device").iterdir()) == [
        *(".env", "common", "compose.override.yaml", "compose.yaml", "conf"),
        *("image-digests.yaml", "key", "l.env", "parts", "seccomp.json", "web.env"),
    ]
    assert "left to the device: /dev/null (service web, mounted at /n)" in notes(loaded)
    text = "external network front (front), which has to be there before the app starts"
    assert f"left to the device: {text}" in notes(loaded)
    assert any("external volume outer (old)" in note for note in notes(loaded))
    assert any("secret variable: variable TOKEN" in note for note in notes(loaded))
    assert "warning: secret file is packed, so whoever can read the app can read it" in notes(
        loaded
    )


def test_docker_can_read_it_too_where_all_lies_beside_the_compose_file(tmp_path: Path) -> None:
    project = write(
        tmp_path,
        {
            "compose.yaml": "services: {web: {extends: {file: base.yaml, service: b}, "
            "env_file: web.env}}",
            "base.yaml": "services: {b: {image: x}}",
            "web.env": "A=1",
        },
    )
    _, packed = publish(project)
    parsed = artifact.parse(packed.manifest, "app")
    assert parsed.tar is None
    assert [file.name for file in parsed.compose] == ["compose.yaml", "image-digests.yaml"]
    assert [file.name for file in parsed.beside] == ["base.yaml", "web.env"]


def test_same_project_elsewhere_gives_the_same_digest(tmp_path: Path) -> None:
    first = write_project("web", 1, tmp_path)
    second = tmp_path / "far" / "away"
    shutil.copytree(first, second)
    for path in second.rglob("*"):
        os.utime(path, (1, 1))
        if path.is_file():
            path.chmod(0o600 if not os.access(path, os.X_OK) else 0o700)
    assert publish(first)[1] == publish(second)[1]
    (second / ".env").write_text("VERSION=2\n")
    assert publish(first)[1].digest != publish(second)[1].digest


def test_what_would_be_another_project_on_a_device_is_not_published(tmp_path: Path) -> None:
    project = write(tmp_path, {"compose.yaml": "services: {web: {image: x, command: [a, b]}}"})
    loaded = load(Sources(project), COMPOSE, [AMD64])
    pins = {"web": f"registry.test/web@sha256:{DIGEST}"}
    good = making.make(loaded, pins, [AMD64])
    making.verify(good, loaded, pins, COMPOSE)
    with pytest.raises(ConfigError, match=r'services.web.image is "x" here and "registry.test/w'):
        making.verify(good, loaded, {}, COMPOSE)
    (project / "compose.yaml").write_text("services: {web: {image: x, command: [a, c]}}")
    changed = making.make(loaded, pins, [AMD64])
    with pytest.raises(ConfigError, match=r'services.web.command\[1\] is "b" here and "c" there'):
        making.verify(changed, loaded, pins, COMPOSE)


def test_variables_come_from_files_only(tmp_path: Path) -> None:
    text = 'services: {web: {image: nginx, environment: {M: "${MINE}", D: "${ID:-none}"}}}'
    loaded, _ = publish(write(tmp_path, {"compose.yaml": text}))
    assert loaded.model["services"]["web"]["environment"] == {"M": "", "D": "none"}
    assert notes(loaded) == [
        "left to the device: variable MINE, which is not set here: empty, unless its env file "
        "sets it"
    ]


def test_env_file_flags_replace_dotenv(tmp_path: Path) -> None:
    project = write(
        tmp_path / "p",
        {
            "compose.yaml": "services: {web: {image: '${IMAGE}', command: ['${A}']}}",
            ".env": "IMAGE=never",
            "env/a.env": "IMAGE=nginx\nA=1",
            "env/b.env": "A=2",
        },
    )
    loaded, packed = publish(project, env_files=("env/a.env", "env/b.env"))
    assert loaded.model["services"]["web"]["command"] == ["2"]
    assert unpacked(packed, tmp_path / "d")["services"]["web"]["command"] == ["2"]
    assert not (tmp_path / "d" / ".env").exists()


def test_several_files_and_profiles_of_the_command_line(tmp_path: Path) -> None:
    project = write(
        tmp_path / "p",
        {"compose.yaml": MINIMAL, "x/more.yaml": "services: {web: {command: [x]}}"},
    )
    _, packed = publish(project, "compose.yaml", "x/more.yaml", profiles=("field",))
    model = unpacked(packed, tmp_path / "d")
    assert model["services"]["web"]["command"] == ["x"]
    parsed = artifact.parse(packed.manifest, "app")
    names = [file.name for file in parsed.compose]
    assert names == ["compose.yaml", "x/more.yaml", "image-digests.yaml"]
    assert b'profiles: ["field"]' in (tmp_path / "d" / "image-digests.yaml").read_bytes()


def test_dotenv_may_list_the_files(tmp_path: Path) -> None:
    project = write(
        tmp_path,
        {
            "a.yaml": MINIMAL,
            "b/b.yaml": "services: {web: {command: [b]}}",
            ".env": "B=b\nCOMPOSE_PATH_SEPARATOR=,\nCOMPOSE_FILE=a.yaml,$B/b.yaml",
        },
    )
    assert publish(project)[0].compose == ("a.yaml", "b/b.yaml")


def test_root_takes_what_lies_above(tmp_path: Path) -> None:
    write(
        tmp_path / "mono",
        {
            "apps/web/compose.yaml": "include: [../common/log.yaml]\nservices: {web: {image: x, "
            "volumes: ['../../shared/conf:/c:ro']}}",
            "apps/common/log.yaml": "services: {log: {image: x}}",
            "shared/conf/a": "a",
        },
    )
    with pytest.raises(ConfigError, match=r"\.\./common/log.yaml is above .*/web: move it into"):
        publish(tmp_path / "mono/apps/web")
    _, packed = publish(tmp_path / "mono/apps/web", root=tmp_path / "mono")
    parsed = artifact.parse(packed.manifest, "app")
    assert parsed.directory == "apps/web"
    unpacked(packed, tmp_path / "device")
    assert (tmp_path / "device/shared/conf/a").read_text() == "a"
    assert (tmp_path / "device/apps/web/image-digests.yaml").is_file()


def test_links_in_the_project_are_followed_and_kept(tmp_path: Path) -> None:
    project = write(
        tmp_path / "p",
        {
            "compose.yaml": "services: {web: {image: x, volumes: ['./current:/c:ro', "
            "'./dir/link/f:/f:ro'], secrets: [s]}}\nsecrets: {s: {file: key}}",
            "v2/conf": "2",
            "real/f": "f",
            "keys/real": "k",
        },
    )
    (project / "current").symlink_to("v2")
    (project / "dir").mkdir()
    (project / "dir" / "link").symlink_to("../real")
    (project / "key").symlink_to("keys/real")
    _, packed = publish(project)
    unpacked(packed, tmp_path / "d")
    assert (tmp_path / "d/current").is_symlink()
    assert (tmp_path / "d/current/conf").read_text() == "2"
    assert (tmp_path / "d/dir/link/f").read_text() == "f"
    assert (tmp_path / "d/key").read_text() == "k"


def test_writable_directories_and_workstation_parts_are_said(tmp_path: Path) -> None:
    text = (
        "services: {web: {image: x, build: ., volumes: ['./conf:/c'], "
        "develop: {watch: [{path: ./src, action: rebuild}]}}}"
    )
    loaded, _ = publish(write(tmp_path, {"compose.yaml": text, "conf/a": "a"}))
    assert notes(loaded) == [
        "ignored: service web: build:, the image is taken as it was pushed",
        "ignored: service web: develop:, which is for a workstation",
        "warning: service web, mounted at /c: conf is writable, but what an app writes into its "
        "project directory is lost with the next update, so keep data in a named volume",
    ]


def test_files_named_by_absolute_paths_are_taken(tmp_path: Path) -> None:
    project = write(tmp_path / "p", {"compose.yaml": MINIMAL, "x.env": "A=1"})
    loaded, _ = publish(project, str(project / "compose.yaml"), env_files=(str(project / "x.env"),))
    assert (loaded.compose, loaded.env_files) == (("compose.yaml",), ("x.env",))
