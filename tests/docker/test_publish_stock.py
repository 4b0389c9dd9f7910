"""Stock projects and stock ``docker compose publish``, on real devices with no help from us."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from certificates import Authority
from stock import write
from test_demo_apps import LOAD, SAYS

from demo.projects import SMALL
from testbed import SETTINGS, Testbed

PASSWORD = {"COMPOSEAPPS_PASSWORD": "secret"}
SITE, KEYS = "/run/work/site", "/run/work/keys"
REGISTRY = "127.0.0.1:5000"
REGISTRY_CONFIG = """\
version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "{address}", secret: x, tls: {{certificate: {certificate}, key: {key}}}}}
"""
PUSH = f"""
import docker
client = docker.from_env(timeout=120)
client.images.get("demo.test/busybox:1").tag("{REGISTRY}/busybox", "1")
for line in client.images.push("{REGISTRY}/busybox", "1", stream=True, decode=True):
    assert "error" not in line, line
"""
STOCK = {
    "compose.yaml": f"""\
services:
  one:
    extends:
      file: base.yaml
      service: base
    image: {REGISTRY}/busybox:1
    env_file: one.env
    command: sh -c 'echo "$$WORD $$BASE $$MORE"; exec sleep infinity'
    stop_signal: SIGKILL
x-composeapps: {{settle: 1}}
""",
    "compose.override.yaml": "services: {one: {environment: {MORE: '1'}}}\n",
    "base.yaml": "services: {base: {image: x, environment: {BASE: based}}}\n",
    "one.env": "WORD=stock\n",
}


def maker(bed: Testbed, *words: str, code: int = 0) -> str:
    """Run composeapps-publish in the tree; return its result, or what it said."""
    done = bed.run("composeapps-publish", *words, env=PASSWORD, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def device(bed: Testbed, *words: str) -> str:
    """Run composeapps in the tree."""
    done = bed.run("composeapps", *words, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def logs(bed: Testbed, app: str, service: str) -> str:
    """Return what a service's containers printed, without prefixes."""
    words = ("docker-compose", "-p", app, "logs", "--no-log-prefix", "--no-color", service)
    # Compose 2.26 clears the line even where there is no terminal.
    return bed.run(*words).stdout.replace("\x1b[2K", "")


def wait_for(bed: Testbed, app: str, service: str, text: str) -> None:
    """Wait for the lines of a service, in any order."""
    deadline = time.monotonic() + 30
    wanted = sorted(text.splitlines())
    while sorted(logs(bed, app, service).splitlines()) != wanted:
        assert time.monotonic() < deadline, f"{app}: {service} says {logs(bed, app, service)!r}"
        time.sleep(0.2)


def test_projects_of_one_feature_each_run_from_a_factory(
    testbed: Testbed, demo_layout: Path
) -> None:
    """Published, signed, preloaded; the device has no network and no release but the image's."""
    bed = testbed
    shutil.copytree(demo_layout, bed.work / "images")
    shutil.copytree(SMALL, bed.work / "small")
    maker(bed, "init", SITE, "--keys", KEYS)
    how = ("--platform", "linux/amd64", "--cache", "/run/work/cache")
    apps = []
    for name in SAYS:
        out = ("--images", "/run/work/images", "--output", f"{SITE}/oci")
        reference = f"demo.test/small/{name}"
        made = maker(bed, "app", f"/run/work/small/{name}", reference, *how, *out, "--json")
        apps.append(f"{name}={json.loads(made)['artifact']}")
    cache = ("--cache", "/run/work/cache")
    gates = ("--settle", "1", "--health-timeout", "120")
    maker(bed, "release", SITE, "stable", *apps, "--keys", KEYS, *gates, *cache)
    maker(bed, "preload", SITE, "stable", *how, "--output", "/run/work/factory")
    (bed.work / "factory").rename(bed.share / "factory")
    shutil.copy(bed.share / "factory" / "root.json", bed.share / "root.json")
    shutil.rmtree(bed.work / "site")

    device(bed, "start")
    status = json.loads(device(bed, "status", "--json"))
    assert set(status["apps"]) == set(SAYS)
    for app, services in SAYS.items():
        for service, text in services.items():
            wait_for(bed, app, service, text)
    # A service of a profile that nobody asked for does not run, though its image is there.
    assert logs(bed, "profiles", "debug") == ""
    layers = bed.path("/var/lib/composeapps/store/layers")
    assert not layers.exists() or os.listdir(layers) == [], "nothing was copied from the factory"
    maker(bed, "show", "/run/work/nowhere", code=3)


def test_an_artifact_of_docker_compose_publish(
    testbed_factory: Callable[[str], Testbed], demo_layout: Path
) -> None:
    """Compose 2.34 and later have publish, so this needs the newest engine's tree."""
    bed = testbed_factory("sid")
    bed.engine("start")
    shutil.copytree(demo_layout, bed.work / "layout")
    authority = Authority(bed.work)
    identity = authority.issue("127.0.0.1")
    config = bed.directory / "registry.yml"
    files = {"certificate": identity.certificate, "key": identity.key}
    root = bed.directory / "registry"
    config.write_text(REGISTRY_CONFIG.format(root=root, address=REGISTRY, **files))
    bed.start_here(["docker-registry", "serve", str(config)])
    bed.python(LOAD, "/run/work/layout")
    bed.python(PUSH)
    write(bed.work / "stock", STOCK)
    trusted = {"SSL_CERT_FILE": f"/run/work/{authority.path.name}"}
    references = {}
    for name, flags in (("pinned", ["--resolve-image-digests"]), ("loose", [])):
        words = ["docker-compose", "publish", "-y", "--with-env", *flags]
        references[name] = f"{REGISTRY}/apps/{name}"
        bed.run(*words, f"{references[name]}:1", env=trusted, cwd="/run/work/stock")
        link = next(root.glob(f"**/apps/{name}/_manifests/tags/1/current/link"))
        references[name] += f"@{link.read_text()}"

    settings = f'[registry."{REGISTRY}"]\nca = "{trusted["SSL_CERT_FILE"]}"\n'
    (bed.work / "maker.toml").write_text(settings)
    maker(bed, "init", SITE, "--keys", KEYS)
    how = ("--config", "/run/work/maker.toml", "--cache", "/run/work/cache")
    sign = (*how, "--keys", KEYS, "--platform", "linux/amd64")
    said = maker(bed, "release", SITE, "stable", references["loose"], *sign, code=3)
    assert f"does not pin image {REGISTRY}/busybox:1: publish it with" in said
    maker(bed, "release", SITE, "stable", references["pinned"], *sign)

    (bed.etc / "composeapps.toml").write_text(f'{SETTINGS}[source]\nurl = "{SITE}"\n{settings}')
    shutil.copy(bed.work / "site/metadata/1.root.json", bed.share / "root.json")
    device(bed, "update")
    wait_for(bed, "pinned", "one", "stock based 1")
    bed.stop()
