"""What the demo's images are made of: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from demo.layers import GZIP_LAYER, ZSTD_LAYER, Entry, directory, file, files_below, link

SOURCES = Path(__file__).resolve().parent / "sources"
#: The registry in the images' names; ``.test`` never exists (RFC 6761).
REGISTRY = "demo.test"
APPLETS = (
    "[ ash awk basename cat chmod chown cp cut date dd df diff dirname du echo env expr false "
    "find fold free grep groups gunzip gzip head hexdump hostname httpd id ip kill less ln ls "
    "md5sum mkdir mkfifo mktemp more mount mv nc nslookup od paste ping printf ps pwd readlink "
    "realpath rm rmdir sed seq sh sha256sum sleep sort stat sync tail tar tee test time timeout "
    "top touch tr true tty umount uname uniq unlink uptime usleep vi watch wc wget which whoami "
    "xargs yes zcat"
).split()
#: User IDs are the same in every image, so that volumes outlive a change of image.
USERS = {"root": 0, "daemon": 1, "valkey": 999, "app": 1000, "mosquitto": 1883, "nobody": 65534}


def base_files() -> dict[str, Entry]:
    """Return what Debian's maintainer scripts would have made."""
    passwd = "".join(f"{user}:x:{number}:{number}::/:/bin/sh\n" for user, number in USERS.items())
    group = "".join(f"{user}:x:{number}:\n" for user, number in USERS.items())
    files = {
        "etc/passwd": file(passwd.encode()),
        "etc/group": file(group.encode()),
        "etc/nsswitch.conf": file(b"passwd: files\ngroup: files\nhosts: files dns\n"),
        "data": directory(0o1777),
    }
    return files | {f"usr/bin/{name}": link("busybox") for name in APPLETS}


@dataclass(frozen=True)
class LayerRecipe:
    """Packages with what they need and lower layers lack, and single files."""

    packages: tuple[str, ...] = ()
    files: Mapping[str, Entry] = field(default_factory=dict)
    media_type: str = GZIP_LAYER


def web(version: int, **more: str) -> LayerRecipe:
    """Return the web service's own layer; ``more`` are modules besides the page."""
    names = {"server.py": "server.py", f"page_{version}.py": "page.py"}
    names |= {f"{module}.py": f"{name}.py" for name, module in more.items()}
    return LayerRecipe(files=files_below(SOURCES / "web", "srv/web", names))


def telemetry(version: int) -> LayerRecipe:
    """Return the telemetry programs' own layer."""
    names = {name: name for name in ("prepare.py", "recorder.py", "publisher.py", "published")}
    names |= {f"readings_{version}.py": "readings.py"}
    files = files_below(SOURCES / "telemetry", "srv/telemetry", names)
    return LayerRecipe(files=files | {"data": directory(0o755, USERS["app"])})


def store() -> LayerRecipe:
    """Return the store's own layer."""
    names = {"serve": "store-serve", "healthy": "store-healthy"}
    files = files_below(SOURCES / "store", "usr/local/bin", names)
    return LayerRecipe(files=files | {"data": directory(0o700, USERS["valkey"])})


#: A version's middle layer holds libraries, its top layer the app: updates share the rest.
LAYERS: Mapping[str, LayerRecipe] = {
    "base": LayerRecipe(("base-files", "libc6", "libc-bin", "busybox"), base_files()),
    "python": LayerRecipe(("python3-minimal", "libpython3-stdlib")),
    "valkey": LayerRecipe(("valkey-server",)),
    "store": store(),
    "mosquitto": LayerRecipe(
        ("mosquitto", "mosquitto-clients"),
        {"var/lib/mosquitto": directory(0o700, USERS["mosquitto"])},
        ZSTD_LAYER,
    ),
    "web-libraries-1": LayerRecipe(("python3-markupsafe",)),
    "web-libraries-2": LayerRecipe(("python3-babel", "python3-jinja2")),
    "web-1": web(1),
    "web-2": web(2),
    "web-3": web(3, page_2="page_2"),
    "web-4": web(4, page_2="page_2"),
    "telemetry-libraries-1": LayerRecipe(("python3-paho-mqtt",)),
    "telemetry-libraries-2": LayerRecipe(("python3-paho-mqtt", "python3-psutil")),
    "telemetry-1": telemetry(1),
    "telemetry-2": telemetry(2),
}


@dataclass(frozen=True)
class ImageRecipe:
    """One image: its name without registry, its layers by name, its configuration."""

    name: str
    layers: tuple[str, ...]
    config: Mapping[str, object]
    #: ``oci``: one manifest. ``docker``: one manifest of Docker's schema 2. ``index``: an index
    #: as BuildKit writes it, with an attestation beside the manifest.
    style: str = "oci"


def healthcheck(*words: str) -> dict[str, object]:
    """Return a health check as Docker's image configuration has it; times are nanoseconds."""
    second = 1_000_000_000
    times = {"Interval": 5, "Timeout": 5, "StartPeriod": 30}
    return {
        "Test": ["CMD", *words],
        "StartInterval": second // 2,
        "Retries": 3,
        **{name: value * second for name, value in times.items()},
    }


def config(user: str, **more: object) -> dict[str, object]:
    """Return an image's configuration for one of USERS."""
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = [path, "LANG=C.UTF-8", "PYTHONUNBUFFERED=1"]
    return {"User": f"{USERS[user]}:{USERS[user]}", "Env": environment, **more}


WEB = config(
    "app",
    Entrypoint=["python3", "/srv/web/server.py"],
    WorkingDir="/srv/web",
    ExposedPorts={"8080/tcp": {}},
    Healthcheck=healthcheck("wget", "-q", "-O", "-", "http://127.0.0.1:8080/healthz"),
    StopSignal="SIGTERM",
)
TELEMETRY = config("app", Entrypoint=["python3"], WorkingDir="/srv/telemetry")
STORE = config(
    "valkey",
    Cmd=["store-serve"],
    WorkingDir="/data",
    ExposedPorts={"6379/tcp": {}},
    Volumes={"/data": {}},
    Healthcheck=healthcheck("store-healthy"),
)
ASK_BROKER = "mosquitto_sub -i health -t $SYS/broker/uptime -C 1 -W 3".split()
BROKER = config(
    "mosquitto",
    Entrypoint=["mosquitto"],
    Cmd=["-c", "/etc/mosquitto/mosquitto.conf"],
    ExposedPorts={"1883/tcp": {}},
    Healthcheck=healthcheck(*ASK_BROKER),
)

IMAGES = (
    ImageRecipe("busybox:1", ("base",), config("root", Cmd=["sh"])),
    ImageRecipe("store:1", ("base", "valkey", "store"), STORE, "docker"),
    ImageRecipe("broker:1", ("base", "mosquitto"), BROKER),
    ImageRecipe("web:1", ("base", "python", "web-libraries-1", "web-1"), WEB, "index"),
    ImageRecipe("web:2", ("base", "python", "web-libraries-2", "web-2"), WEB, "index"),
    ImageRecipe("web:3", ("base", "python", "web-libraries-2", "web-3"), WEB, "index"),
    ImageRecipe("web:4", ("base", "python", "web-libraries-2", "web-4"), WEB, "index"),
    ImageRecipe(
        "telemetry:1", ("base", "python", "telemetry-libraries-1", "telemetry-1"), TELEMETRY
    ),
    ImageRecipe(
        "telemetry:2",
        ("base", "python", "telemetry-libraries-2", "telemetry-2"),
        TELEMETRY,
        "index",
    ),
)
