"""Projects that no device could run, or that cannot be packed: each is refused in plain words."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from projectparts import AMD64, COMPOSE, MINIMAL, publish
from stock import write

from composeapps.errors import ConfigError
from composeapps.publish.project import Sources, load

pytestmark = pytest.mark.usefixtures("hostile_environment")


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
