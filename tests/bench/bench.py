"""Sealed layers against stock Docker, in one run on one kind of file system; prints a table.

Each side gets a fresh testbed (the same tree, engine and ext4 image) and the demo's two apps. The
peer gets its images by the engine's own ``images/load``, which unpacks them, and then
``docker-compose up --wait``. Figures are kept as JSON in ``build/bench.json``. What a run does not
compare yet is said in its last line.
"""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "qemu")]

from demo import images  # noqa: E402 - needs the path above
from demo.demo import CHANNEL, PASSWORD, SITE  # noqa: E402
from demo.projects import write_project  # noqa: E402
from testbed import SETTINGS, Testbed  # noqa: E402

SECTOR = 512
LOAD = """
import docker, sys
for line in docker.from_env().api.load_image(open("/run/work/images.tar", "rb")):
    assert "error" not in line, line
"""
DESTROY = "rm -rf /var/lib/containerd/*; rm -rf /var/lib/docker/[a-u]*"


class Disk:
    """The counters of a testbed's data disk."""

    def __init__(self, bed: Testbed) -> None:
        self._bed = bed
        image = str((bed.directory / "data.img").resolve())
        loops = Path("/sys/block").glob("loop*/loop/backing_file")
        found = next(path for path in loops if path.read_text().strip() == image)
        self._stat = found.parent.parent / "stat"

    def written(self) -> int:
        """Return bytes written to the medium so far, dirty pages included."""
        self._bed.run("sync")
        return int(self._stat.read_text().split()[6]) * SECTOR

    def used(self) -> int:
        """Return bytes in use on the file system."""
        self._bed.run("sync")
        out = self._bed.run("df", "-B1", "--output=used", "/mnt/data").stdout
        return int(out.split()[-1])


def measure(bed: Testbed, work: Callable[[], None]) -> dict[str, float]:
    """Return seconds, bytes written and growth in use of some work."""
    disk = Disk(bed)
    written, used, begun = disk.written(), disk.used(), time.monotonic()
    work()
    seconds = time.monotonic() - begun
    return {
        "seconds": round(seconds, 2),
        "written": disk.written() - written,
        "used": disk.used() - used,
    }


def ours(directory: Path, layout: Path) -> dict[str, dict[str, float]]:
    """Install, update, lose the engine's store."""
    with Testbed(directory) as bed:
        shutil.copytree(layout, bed.work / "images")
        publish = ("composeapps-publish",)
        bed.run(*publish, "init", SITE, "--keys", "/run/work/keys", env=PASSWORD)
        _release(bed, 1)
        shutil.copy(bed.work / "site/metadata/1.root.json", bed.share / "root.json")
        (bed.etc / "composeapps.toml").write_text(f'{SETTINGS}\n[source]\nurl = "{SITE}"\n')
        bed.engine("start")
        found = {"first": measure(bed, lambda: _run(bed, "update"))}
        _release(bed, 2)
        found["update"] = measure(bed, lambda: _run(bed, "update"))
        bed.engine("stop")
        bed.run("sh", "-c", DESTROY)
        bed.engine("start")
        found["lost"] = measure(bed, lambda: _run(bed, "start"))
        found["idle"] = {"pss": _idle_pss(bed)}
        return found


def _run(bed: Testbed, verb: str) -> None:
    bed.run("composeapps", verb)


def _release(bed: Testbed, version: int) -> None:
    common = ("--cache", "/run/work/cache", "--platform", "linux/amd64")
    apps = []
    for name in ("web", "telemetry"):
        write_project(name, version, bed.work)
        out = bed.run(
            "composeapps-publish", "--json", "app", f"/run/work/{name}", f"demo.test/apps/{name}",
            "--images", "/run/work/images", "--output", f"{SITE}/oci", *common,
        ).stdout  # fmt: skip
        apps.append(f"{name}={json.loads(out.splitlines()[-1])['artifact']}")
    bed.run(
        "composeapps-publish", "release", SITE, CHANNEL, *apps, "--keys", "/run/work/keys",
        *common, env=PASSWORD,
    )  # fmt: skip


def _idle_pss(bed: Testbed) -> int:
    """Return bytes (PSS) of the resident part, its first children ended."""
    bed.start_in("composeapps", "run")
    time.sleep(12)
    out = bed.run("sh", "-c", "cat /proc/$(pgrep -of 'composeapps.cli run')/smaps_rollup").stdout
    return int(next(line for line in out.splitlines() if line.startswith("Pss:")).split()[1]) * 1024


def peer(directory: Path, layout: Path) -> dict[str, dict[str, float]]:
    """Do the same with the engine alone."""
    with Testbed(directory) as bed:
        with tarfile.open(bed.work / "images.tar", "w") as archive:
            archive.add(layout, arcname=".")
        bed.engine("start")
        found = {"first": measure(bed, lambda: _load_and_up(bed, 1))}
        found["update"] = measure(bed, lambda: _up(bed, 2))
        bed.engine("stop")
        bed.run("sh", "-c", DESTROY)
        bed.engine("start")
        found["lost"] = measure(bed, lambda: _load_and_up(bed, 2))
        return found


def _load_and_up(bed: Testbed, version: int) -> None:
    bed.python(LOAD)
    _up(bed, version)


def _up(bed: Testbed, version: int) -> None:
    for name in ("web", "telemetry"):
        write_project(name, version, bed.work)
        command = ("docker-compose", "-p", name, "up", "-d", "--wait", "--pull", "never")
        bed.run(*command, cwd=f"/run/work/{name}")


def table(mine: dict[str, dict[str, float]], theirs: dict[str, dict[str, float]]) -> str:
    """Return the figures with their ratios."""
    lines = [f"{'':28} {'sealed':>12} {'stock':>12} {'ratio':>7}"]
    for step, what in (("first", "first install"), ("lost", "engine store lost")):
        for figure in ("seconds", "written", "used"):
            a, b = mine[step][figure], theirs[step][figure]
            ratio = f"{a / b:7.2f}" if b > 0 else "      -"
            lines.append(f"{what + ', ' + figure:28} {a:12,.1f} {b:12,.1f} {ratio}")
    lines.append(f"{'idle run, PSS bytes':28} {mine['idle']['pss']:12,.1f}")
    lines.append("not compared yet: registry pull, the classic store, downtime, read speed")
    return "\n".join(lines)


def main() -> int:
    """Measure both sides and print the table."""
    layout = images.layout()
    directory = Path(tempfile.mkdtemp(prefix="composeapps-bench-", dir="/var/tmp"))
    try:
        mine, theirs = ours(directory / "ours", layout), peer(directory / "peer", layout)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    output = HERE.parent.parent / "build" / "bench.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps({"sealed": mine, "stock": theirs}, indent=1) + "\n")
    print(table(mine, theirs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
