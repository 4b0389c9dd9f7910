"""``make demo``: a Compose app is published, signed, pulled, sealed, started, updated, broken,
rolled back, corrupted and reset, on a real Docker Engine that unpacks nothing.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent / "qemu")]

from demo import images  # noqa: E402 - needs the path above
from demo.projects import WEB_UNHEALTHY, write_project  # noqa: E402
from testbed import SETTINGS, Testbed  # noqa: E402

CHANNEL = "stable"
SITE = "/run/work/site"
URL = "http://127.0.0.1:8000"
PASSWORD = {"COMPOSEAPPS_PASSWORD": "demo"}


class Story:
    """Tells what happens, and how long it took."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.begun = time.monotonic()

    def tell(self, text: str) -> None:
        """Print one line with the time since the beginning."""
        print(f"[{time.monotonic() - self.begun:5.1f} s] {text}", flush=True)

    def run(self, *command: str, code: int = 0) -> str:
        """Show a command, run it in the device's tree, show what it says."""
        begun = time.monotonic()
        print(f"          $ {' '.join(command)}", flush=True)
        done = self.bed.run(*command, env=PASSWORD, check=False)
        for line in (done.stdout + done.stderr).splitlines()[-12:]:
            print(f"            {line}")
        print(f"            ({time.monotonic() - begun:.1f} s, exit code {done.returncode})")
        if done.returncode != code:
            raise SystemExit(f"demo: expected exit code {code}")
        return done.stdout


def publish(story: Story, web: int, telemetry: int) -> None:
    """Publish both apps in these versions and sign a release of them."""
    apps = []
    for name, version in (("web", web), ("telemetry", telemetry)):
        write_project(name, version, story.bed.work)
        reference = f"demo.test/apps/{name}:{version}"
        out = story.run(
            "composeapps-publish", "--json", "app", f"/run/work/{name}", reference,
            "--images", "/run/work/images", "--output", f"{SITE}/oci",
            "--cache", "/run/work/cache", "--platform", "linux/amd64",
        )  # fmt: skip
        pinned = json.loads(out.strip().splitlines()[-1])["artifact"]
        apps.append(f"{name}={pinned}")
    story.run(
        "composeapps-publish",
        "release",
        SITE,
        CHANNEL,
        *apps,
        "--keys",
        "/run/work/keys",
        "--cache",
        "/run/work/cache",
        "--platform",
        "linux/amd64",
    )


def visits(story: Story) -> str:
    """Ask the web app, as any client of the device would."""
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/').read().decode())"
    return story.bed.python(code).strip()


def main() -> int:
    """Tell the story."""
    layout = images.layout()
    directory = Path(tempfile.mkdtemp(prefix="composeapps-demo-", dir="/var/tmp"))
    try:
        with Testbed(directory) as bed:
            shutil.copytree(layout, bed.work / "images")
            tell(Story(bed))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def tell(story: Story) -> None:
    """Do it all."""
    bed = story.bed
    story.tell("A maker makes a TUF repository; root and targets keys stay offline.")
    story.run("composeapps-publish", "init", SITE, "--keys", "/run/work/keys")
    story.tell("The maker publishes two Compose apps and signs release 1.")
    publish(story, web=1, telemetry=1)
    story.tell("The site is plain files on a web server; the device carries only the TUF root.")
    server = [sys.executable, "-m", "http.server", "8000", "--bind", "127.0.0.1"]
    bed.start_here([*server, "--directory", str(bed.work / "site")])
    shutil.copy(bed.work / "site/metadata/1.root.json", bed.share / "root.json")
    settings = f'{SETTINGS}\n[source]\nurl = "{URL}"\n'
    (bed.etc / "composeapps.toml").write_text(settings)
    bed.engine("start")
    story.tell("The device finds the release, downloads, seals and starts it.")
    story.run("composeapps", "update")
    story.run("composeapps", "status")
    story.tell(f"The web app says: {visits(story)}")

    story.tell("Release 2: a new web app. Only new layers are fetched; the volume stays.")
    publish(story, web=2, telemetry=1)
    story.run("composeapps", "diff")
    story.run("composeapps", "update")
    story.tell(f"The web app says: {visits(story)}")

    story.tell("Release 3 is bad: it never gets healthy. The device goes back by itself.")
    publish(story, web=WEB_UNHEALTHY, telemetry=1)
    story.run("composeapps", "update", code=9)
    story.tell(f"The web app says: {visits(story)}")

    story.tell("The engine's whole store is destroyed. No network is needed to mend it.")
    bed.engine("stop")
    bed.run("sh", "-c", "rm -rf /var/lib/containerd/*; rm -rf /var/lib/docker/[a-u]*")
    bed.engine("start")
    story.run("composeapps", "start")
    story.tell(f"The web app says: {visits(story)}")

    story.tell("A bit of a sealed layer is flipped. verify names it, the next update mends it.")
    layer = max(bed.path("/var/lib/composeapps/store/layers").iterdir(), key=_age)
    with layer.open("r+b") as file:
        file.seek(4096)
        byte = file.read(1)
        file.seek(4096)
        file.write(bytes([byte[0] ^ 1]))
    story.run("composeapps", "verify", "--deep", code=6)
    story.run("composeapps", "reset", code=6)
    story.run("composeapps", "update")
    story.run("composeapps", "verify", "--deep")
    story.run("composeapps", "status")
    story.tell(f"The web app says: {visits(story)}. That is all.")


def _age(path: Path) -> float:
    return path.stat().st_mtime


if __name__ == "__main__":
    sys.exit(main())
