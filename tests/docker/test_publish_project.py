"""Projects as people write them, published by real Compose: a device gets what they wrote."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stock import program, write

from composeapps import artifact
from composeapps.errors import ConfigError
from composeapps.oci import Platform
from composeapps.publish import artifact as making
from composeapps.publish.project import Loaded, Sources, load
from demo.projects import SMALL, write_project

COMPOSE = program("docker-compose", os.environ.get("ENGINE", ""))
AMD64 = Platform("linux", "amd64")
DIGEST = "a" * 64
MINIMAL = "services: {web: {image: nginx}}\n"
#: Nothing of this may be seen by Compose.
HOSTILE = {
    "COMPOSE_FILE": "/nonexistent.yaml",
    "COMPOSE_PROFILES": "secret",
    "COMPOSE_PROJECT_NAME": "other",
    "DOCKER_HOST": "tcp://127.0.0.1:1",
    "MINE": "of the maker's shell",
}


@pytest.fixture(autouse=True)
def hostile_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A maker's shell is full of variables; none of them may get into an app."""
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)


def publish(directory: Path, *files: str, **options: Any) -> tuple[Loaded, making.Packed]:
    """Load, pack and verify a project; images are pinned to made-up digests."""
    platforms = options.pop("platforms", [AMD64])
    limit = options.pop("limit", 1024**2)
    loaded = load(Sources(directory, files, **options), COMPOSE, platforms)
    pins = {name: f"registry.test/{name.lower()}@sha256:{DIGEST}" for name in loaded.images}
    packed = making.make(loaded, pins, platforms, limit)
    making.verify(packed, loaded, pins, COMPOSE)
    return loaded, packed


def unpacked(packed: making.Packed, directory: Path) -> dict[str, Any]:
    """Unpack as a device does; return Compose's model."""
    directory.mkdir()
    return making.read(packed, directory, COMPOSE)


def notes(loaded: Loaded) -> list[str]:
    return [str(note) for note in loaded.needs.notes]


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


def mount(source: str, extra: str = "") -> dict[str, str]:
    """Return a project that mounts something."""
    return {"compose.yaml": f"services: {{web: {{image: x, volumes: ['{source}']}}}}\n{extra}"}


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "build only": (
        {"compose.yaml": "services: {web: {build: .}}"},
        "service web has no image: build it, push it, and name it with image: ",
    ),
    "above": (mount("../x:/x"), r"service web, mounted at /x: \.\./x is above "),
    "home": (mount("~/x:/x"), "mounted at /x: ~/x is in a person's home directory"),
    "missing": (mount("./x:/x:ro"), "mounted at /x: x does not exist; what an app writes into"),
    "empty directory": (mount("./e:/x") | {"e/.gitkeep": ""}, "e is an empty directory: what an"),
    "missing secret": (
        {"compose.yaml": "services: {web: {image: x, secrets: [s]}}\nsecrets: {s: {file: no}}"},
        "secret s: no does not exist$",
    ),
    "config above": (
        {"compose.yaml": "services: {web: {image: x, configs: [s]}}\nconfigs: {s: {file: ../n}}"},
        r"config s: \.\./n is above",
    ),
    "external secret": (
        {
            "compose.yaml": "services: {web: {image: x, secrets: [s]}}\n"
            "secrets: {s: {external: true}}"
        },
        "secret s is external, which only Swarm has",
    ),
    "missing env file": (
        {"compose.yaml": "services: {web: {image: x, env_file: no.env}}"},
        r"Compose: .*no\.env.*",
    ),
    "env file above": (
        {"compose.yaml": "services: {web: {image: x, env_file: ../no.env}}"},
        r"service web, env_file: \.\./no.env is above",
    ),
    "missing include": (
        {"compose.yaml": "include: [no.yaml]\n" + MINIMAL},
        "no.yaml cannot be read: No such file",
    ),
    "absolute include": (
        {"compose.yaml": "include: [/etc/no.yaml]\n" + MINIMAL},
        "include: /etc/no.yaml is an absolute path; a device reads Compose files from the app",
    ),
    "remote include": (
        {"compose.yaml": "include: ['oci://x/y']\n" + MINIMAL},
        "include: oci://x/y is on another machine",
    ),
    "git include": (
        {"compose.yaml": "include: ['https://x.test/y.git']\n" + MINIMAL},
        r"include: https://x.test/y.git is on another machine",
    ),
    "remote extends": (
        {"compose.yaml": "services: {web: {extends: {file: 'oci://x', service: y}}}"},
        "service web, extends: oci://x is on another machine",
    ),
    "volume in the project": (
        {
            "compose.yaml": "services: {web: {image: x, volumes: "
            "[{type: volume, source: d, target: /d}]}}\n"
            "volumes: {d: {driver_opts: {type: none, o: bind, device: ./data}}}"
        },
        "volume d lies in ",
    ),
    "seccomp": (
        {"compose.yaml": "services: {web: {image: x, security_opt: ['seccomp=no.json']}}"},
        "service web, security_opt: no.json does not exist",
    ),
    "platform": (
        {"compose.yaml": "services: {web: {image: x, platform: linux/arm64}}"},
        "service web says platform: linux/arm64, so it cannot run on linux/amd64",
    ),
    "bad yaml": ({"compose.yaml": "services: [\n"}, "compose.yaml is not YAML that can be read"),
    "deep yaml": ({"compose.yaml": "[" * 20000}, "compose.yaml is not YAML that can be read"),
    "binary": ({"compose.yaml": "\0\1"}, "compose.yaml is not YAML that can be read"),
    "wrong type": ({"compose.yaml": "services: {web: {image: [1]}}"}, "Compose: .*image"),
    "no services": ({"compose.yaml": "name: x"}, "has no services: there is nothing to run"),
    "unknown key": (
        {"compose.yaml": MINIMAL + "x-composeapps: {helth: 1}"},
        "x-composeapps has an unknown key 'helth'",
    ),
    "bad duration": (
        {"compose.yaml": MINIMAL + "x-composeapps: {settle: soon}"},
        "settle has to be seconds",
    ),
    "files of the environment that are not there": (
        {"compose.yaml": MINIMAL, ".env": "COMPOSE_FILE=compose.yaml:b.yaml"},
        "-f b.yaml does not exist",
    ),
    "nothing": ({"other.yaml": MINIMAL}, "has no compose.yaml: name a file with -f"),
    "only an override": ({"compose.override.yaml": MINIMAL}, "has no compose.yaml"),
    "taken name": (
        {"compose.yaml": MINIMAL, "image-digests.yaml": "services: {web: {image: y}}"},
        "image-digests.yaml is a name that the pinned images are written to",
    ),
    "required variable": (
        {"compose.yaml": "services: {web: {image: 'x:${TAG:?say which}'}}"},
        "Compose: .*say which",
    ),
    "self include": ({"compose.yaml": "include: [compose.yaml]\n" + MINIMAL}, "Compose: .*cycle"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_no_device_could_run_is_refused(case: str, tmp_path: Path) -> None:
    files, sentence = REFUSED[case]
    project = write(tmp_path / "p", files)
    named = ("compose.yaml", "image-digests.yaml") if case == "taken name" else ()
    with pytest.raises(ConfigError, match=sentence) as caught:
        publish(project, *named)
    assert "composeapps-" not in str(caught.value), "a scratch path is nothing to show"


def test_absolute_paths_of_this_machine_are_refused(tmp_path: Path) -> None:
    project = write(tmp_path / "p", mount(f"{tmp_path}/p/conf:/c:ro") | {"conf/a": "a"})
    with pytest.raises(ConfigError, match=r"p/conf is an absolute path into the project"):
        publish(project)


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    text = "services: {web: {image: x, volumes: ['../a:/a', '~/b:/b', './c:/c']}, job: {build: .}}"
    with pytest.raises(ConfigError) as caught:
        publish(write(tmp_path, {"compose.yaml": text}))
    assert len(str(caught.value).splitlines()) == 4


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: os.mkfifo(path / "pipe"), "conf/pipe is a pipe or a device"),
        (lambda path: bind_socket(path / "sock"), "conf/sock is a socket"),
        (lambda path: (path / "l").symlink_to("/etc/passwd"), "'conf/l' is a link to '/etc/passw"),
        (lambda path: (path / "l").symlink_to("../../x"), r"'conf/l' is a link to '\.\./\.\./x'"),
        (lambda path: (path / "big").write_bytes(bytes(2 * 1024**2)), "more than 1 MiB, at last"),
        (lambda path: (path / ("n" * 120)).touch(), "cannot be packed: .*rename it"),
        (lambda path: (path / "a\nb").touch(), "file name that cannot be used"),
        (lambda path: (Path(os.fsdecode(bytes(path) + b"/\xff"))).touch(), "not UTF-8"),
    ],
)
def test_what_cannot_be_packed(spoil: Spoil, sentence: str, tmp_path: Path) -> None:
    project = write(tmp_path, mount("./conf:/c:ro") | {"conf/a": "a"})
    spoil(project / "conf")
    with pytest.raises(ConfigError, match=sentence):
        publish(project)


def bind_socket(path: Path) -> None:
    """Leave a socket in the file system."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def test_link_loops_and_links_out_as_mount_source(tmp_path: Path) -> None:
    project = write(tmp_path / "p", mount("./a:/c:ro"))
    (project / "a").symlink_to("b")
    (project / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="too many links"):
        publish(project)
    (project / "a").unlink()
    (project / "a").symlink_to("../outside")
    write(tmp_path / "outside", {"x": ""})
    with pytest.raises(ConfigError, match=r"'a' is a link to '\.\./outside'"):
        publish(project)


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


def test_flags_that_name_nothing(tmp_path: Path) -> None:
    project = write(tmp_path / "p", {"compose.yaml": MINIMAL})
    for options, sentence in (
        ({"files": ("no.yaml",)}, "-f no.yaml does not exist"),
        ({"files": ("../x.yaml",)}, r"-f \.\./x.yaml is outside of "),
        ({"files": ("/etc/passwd",)}, "-f /etc/passwd is outside of "),
        ({"files": ("compose.yaml", "./compose.yaml")}, "named twice"),
        ({"env_files": ("no.env",)}, "--env-file no.env does not exist"),
        ({"root": tmp_path / "other"}, "does not lie in"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            load(Sources(project, **options), COMPOSE, [AMD64])
    with pytest.raises(ConfigError, match="is not a directory"):
        load(Sources(tmp_path / "none"), COMPOSE, [AMD64])


def test_files_named_by_absolute_paths_are_taken(tmp_path: Path) -> None:
    project = write(tmp_path / "p", {"compose.yaml": MINIMAL, "x.env": "A=1"})
    loaded, _ = publish(project, str(project / "compose.yaml"), env_files=(str(project / "x.env"),))
    assert (loaded.compose, loaded.env_files) == (("compose.yaml",), ("x.env",))
