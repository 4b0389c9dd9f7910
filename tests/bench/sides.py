"""The sides of a comparison: the same testbed, disk, registry and projects; other ways to run them.

What is stock: ``docker-compose pull`` and ``up -d``, one project after the other, and ``docker
load`` of what ``docker save`` wrote. What is ours: ``composeapps``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import published
from bench.figures import CLASSIC, CONTAINERD, SEALED
from testbed import SETTINGS, Testbed

HERE = Path(__file__).resolve().parent
PASSWORD = {"COMPOSEAPPS_PASSWORD": "bench"}
#: A device's image holds compiled Python; the testbed's tree does not hold all of it.
COMPILED = {"PYTHONPYCACHEPREFIX": "/run/work/compiled", "PYTHONDONTWRITEBYTECODE": ""}
COMPILE = """
import importlib, pkgutil, composeapps
for module in pkgutil.iter_modules(composeapps.__path__, "composeapps."):
    importlib.import_module(module.name)
"""
SECTOR = 512
#: On the data disk: what a device's image would carry.
FACTORY, ARCHIVE = "/mnt/data/factory", "/mnt/data/images.tar"
SITE = "/run/work/site"
ENGINE_STORE = "rm -rf /var/lib/containerd/*; rm -rf /var/lib/docker/[a-u]*"
EVERYTHING = "rm -rf /var/lib/containerd/* /var/lib/docker/* /var/lib/composeapps/*"
WORK = (
    *("--config", "/etc/composeapps/composeapps.toml", "--cache", "/run/work/cache"),
    *("--platform", "linux/amd64"),
)
#: Project to version.
Versions = Mapping[str, int]
UNMOUNT = "for m in /run/composeapps/layers/*; do umount $m && rmdir $m; done 2>/dev/null; true"


class Side:
    """One testbed with its registry; a context manager. Subclasses say how apps are run."""

    name = ""

    def __init__(self, directory: Path, registry: Path) -> None:
        self.bed = Testbed(directory)
        self._registry = registry

    def __enter__(self) -> Side:
        self.bed.start()
        shutil.copytree(HERE / "inside", self.bed.work / "inside", dirs_exist_ok=True)
        config = published.registry_config(self.bed.directory, self._registry / "data")
        self.bed.start_here(["docker-registry", "serve", str(config)])
        self._wait_for_registry()
        self.prepare()
        self.bed.engine("start")
        self._find_disk()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.bed.stop()

    def prepare(self) -> None:
        """Do what has to be done once before the engine starts."""

    def install(self, versions: Versions) -> None:
        """With a network: bring a version here and run it."""
        self.fetch(versions)
        self.switch(versions)

    def fetch(self, versions: Versions) -> None:
        """Bring a version here."""
        raise NotImplementedError

    def switch(self, versions: Versions) -> None:
        """Run a version that is here."""
        raise NotImplementedError

    def recover(self, versions: Versions) -> None:
        """With no network and an empty engine: run what an archive or the sealed layers hold."""
        raise NotImplementedError

    def resume(self, versions: Versions) -> None:
        """Run a version that ran before and whose containers are gone."""
        self.switch(versions)

    def preload(self, versions: Versions) -> None:
        """Put on the disk what a device's image would carry."""
        raise NotImplementedError

    def lose(self, command: str) -> None:
        """Stop the engine, remove things, start it."""
        self.bed.engine("stop")
        self.bed.run("sh", "-c", command)
        self.bed.engine("start")
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the engine answers: how fast it starts is nobody's merit here."""
        self.bed.python("import docker; docker.from_env(timeout=60).version()")

    def written(self) -> int:
        """Return bytes written to the data disk so far, dirty pages included."""
        self.bed.run("sync")
        return int(self._stat.read_text().split()[6]) * SECTOR

    def used(self) -> int:
        """Return bytes in use on the data disk."""
        self.bed.run("sync")
        out = self.bed.run("df", "-B1", "--output=used", "/mnt/data").stdout
        return int(out.split()[-1])

    def wire(self) -> int:
        """Return bytes over the network so far, both directions: all servers are on loopback."""
        lines = self.bed.run("cat", "/proc/net/dev").stdout.splitlines()
        line = next(line for line in lines if line.strip().startswith("lo:"))
        return int(line.split(":")[1].split()[0])

    def _find_disk(self) -> None:
        image = str((self.bed.directory / "data.img").resolve())
        loops = Path("/sys/block").glob("loop*/loop/backing_file")
        found = next(path for path in loops if path.read_text().strip() == image)
        self._stat = found.parent.parent / "stat"

    def _wait_for_registry(self) -> None:
        code = (
            "import socket, time\n"
            "for _ in range(500):\n"
            f"    if socket.socket().connect_ex(('127.0.0.1', {published.PORT})) == 0: break\n"
            "    time.sleep(0.02)\n"
            "else: raise SystemExit('docker-registry did not start')\n"
        )
        self.bed.python(code)

    def serve(self, command: Sequence[str]) -> int:
        """Start a server of this machine in the testbed's network; return the port it prints."""
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb") as out, os.fdopen(reader, "rb") as lines:
            self.bed.start_here([sys.executable, *command], stdout=out)
            out.close()
            return int(lines.readline())


class Sealed(Side):
    """The agent on its engine."""

    name = SEALED

    def __init__(self, directory: Path, registry: Path) -> None:
        super().__init__(directory, registry)
        self._artifacts: dict[tuple[str, int], str] = {}
        self.url = ""

    def prepare(self) -> None:
        """Make the maker's repository and a web server for it; let the agent know the root."""
        self._configure("http://127.0.0.1:1/none")
        self._publish("init", SITE, "--keys", "/run/work/keys")
        root = self.bed.work / "site/metadata/1.root.json"
        shutil.copy(root, self.bed.share / "root.json")
        port = self.serve([str(HERE / "serve.py"), str(self.bed.work / "site")])
        self.url = f"http://127.0.0.1:{port}"
        self._configure(self.url)
        self.bed.run("python3", "-c", COMPILE, env=COMPILED)

    def _configure(self, url: str, ca: str = "") -> None:
        text = (
            f'{SETTINGS}[source]\nurl = "{url}"\nlayout = "none"\nca = "{ca}"\n'
            f'[registry."{published.REGISTRY}"]\ninsecure = true\n'
            f'[paths]\nfactory = "{FACTORY}"\n'
        )
        (self.bed.etc / "composeapps.toml").write_text(text)

    def use(self, url: str = "", ca: str = "") -> None:
        """Take releases from another server, or from the first one again."""
        self._configure(url or self.url, ca)

    def run(self, *words: str) -> str:
        """Run the agent's command."""
        return self.bed.run("composeapps", *words, env=COMPILED).stdout

    def _publish(self, *words: str) -> str:
        done = self.bed.run("composeapps-publish", *words, env={**COMPILED, **PASSWORD})
        return done.stdout

    def release(self, versions: Versions) -> None:
        """Publish what is not published yet, and sign a release of it."""
        words = []
        for app, version in versions.items():
            if (app, version) not in self._artifacts:
                published.write(app, version, self.bed.work)
                reference = f"{published.REGISTRY}/apps/{app}"
                out = self._publish("--json", "app", f"/run/work/{app}", reference, *WORK)
                self._artifacts[app, version] = json.loads(out.splitlines()[-1])["artifact"]
            words.append(f"{app}={self._artifacts[app, version]}")
        keys = ("--keys", "/run/work/keys")
        self._publish("release", SITE, "stable", *words, *keys, *WORK)

    def install(self, versions: Versions) -> None:
        """Update; the release has to be signed."""
        self.run("update")

    def fetch(self, versions: Versions) -> None:
        """Sign a release and fetch it."""
        self.release(versions)
        self.run("fetch")

    def switch(self, versions: Versions) -> None:
        """Apply what is fetched."""
        self.run("apply")

    def recover(self, versions: Versions) -> None:
        """Start: the agent finds out what is missing."""
        self.run("start")

    def resume(self, versions: Versions) -> None:
        """Start, as ``recover`` does."""
        self.run("start")

    def preload(self, versions: Versions) -> None:
        """Write a factory store."""
        self.release(versions)
        shutil.rmtree(self.bed.work / "factory", ignore_errors=True)
        self._publish("preload", SITE, "stable", "--output", "/run/work/factory", *WORK)
        self.bed.run("sh", "-c", f"rm -rf {FACTORY}; cp -a /run/work/factory {FACTORY}")

    def lose(self, command: str) -> None:
        """Lose the sealed layers' mounts too, where the layers go."""
        if command == EVERYTHING:
            self.bed.engine("stop")
            self.bed.run("sh", "-c", UNMOUNT)
        super().lose(command)


class Stock(Side):
    """Docker and Compose alone, with the containerd image store."""

    name = CONTAINERD
    #: Start the projects at the same time; else one after the other, as scripts do.
    together = False

    def fetch(self, versions: Versions) -> None:
        """Pull."""
        for app, version in versions.items():
            published.write(app, version, self.bed.work)
            self._compose(app, "pull", "--quiet")

    def switch(self, versions: Versions) -> None:
        """Up."""
        processes = []
        for app, version in versions.items():
            published.write(app, version, self.bed.work)
            if self.together:
                command = self.bed.argv(*self._command(app, *UP), cwd=f"/run/work/{app}")
                processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            else:
                self._compose(app, *UP)
        if any(process.wait() for process in processes):
            raise RuntimeError("docker-compose up failed")

    def install(self, versions: Versions) -> None:
        """Pull and up, project by project."""
        for app, version in versions.items():
            self.fetch({app: version})
            self.switch({app: version})

    def recover(self, versions: Versions) -> None:
        """Load and up."""
        self.bed.run("python3", "/run/work/inside/load.py", "load", ARCHIVE, env=COMPILED)
        self.switch(versions)

    def preload(self, versions: Versions) -> None:
        """Save the images of a version, which has to be here."""
        tags = {"store": 1, "broker": 1, **versions}
        names = [f"{published.REGISTRY}/{name}:{tag}" for name, tag in tags.items()]
        command = ("python3", "/run/work/inside/load.py", "save", ARCHIVE, *names)
        self.bed.run(*command, env=COMPILED)

    @staticmethod
    def _command(app: str, *words: str) -> list[str]:
        return ["docker-compose", "-p", app, *words]

    def _compose(self, app: str, *words: str) -> None:
        self.bed.run(*self._command(app, *words), cwd=f"/run/work/{app}", env=COMPILED)


UP = ("up", "-d", "--pull", "never")


class Classic(Stock):
    """Docker and Compose alone, with the classic overlay2 store."""

    name = CLASSIC

    def prepare(self) -> None:
        """Turn the containerd image store off."""
        path = self.bed.directory / "etc" / "docker" / "daemon.json"
        settings = json.loads(path.read_text())
        settings["features"] = {"containerd-snapshotter": False}
        path.write_text(json.dumps(settings))
