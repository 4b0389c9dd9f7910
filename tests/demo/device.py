"""A device's story, in a virtual machine: it boots with its apps inside, updates itself, loses
power in the middle, loses Docker's whole store, is sent a bad release, and its apps run after each.

Nothing in it is accelerated; everything is what ``make test`` tests.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [
    str(HERE.parent),
    str(HERE.parent.parent / "qemu"),
    str(HERE.parent.parent / "agent"),
]

import vmlaw  # noqa: E402 - all of them need the path above
import vmworld  # noqa: E402

from demo import images  # noqa: E402
from demo.projects import WEB_UNHEALTHY, write_project  # noqa: E402
from hardware import Options  # noqa: E402
from vm import Machine  # noqa: E402

CHANNEL = "stable"
#: Looks for a release every 10 seconds, so that nobody has to tell it.
POLLING = "interval = 10\njitter = 5\n"
VISIT = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/').read().decode())"
DESTROY = """\
systemctl stop docker.socket docker containerd
rm -rf /var/lib/containerd/* /var/lib/docker/[a-u]*
systemctl start containerd docker
"""


class Story:
    """Tells what happens, and when."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.site = directory / "site"
        self.begun = time.monotonic()

    def tell(self, text: str) -> None:
        """Print one line with the time since the beginning."""
        print(f"[{time.monotonic() - self.begun:5.0f} s] {text}", flush=True)

    def publish(self, version: int) -> None:
        """Publish the web app in a version and sign a release of it."""
        project = write_project("web", version, self.directory)
        compose = project / "compose.yaml"
        # An emulated device takes its time.
        text = compose.read_text().replace("health_timeout: 60s", "health_timeout: 300s")
        compose.write_text(text)
        said = vmworld.publish(
            "--json", "app", str(project), f"demo.test/apps/web:{version}", "--images",
            str(self.directory / "images"), "--output", str(self.site / "oci"),
            "--cache", str(self.directory / "cache"), "--platform", "linux/amd64",
        )  # fmt: skip
        pinned = json.loads(said.strip().splitlines()[-1])["artifact"]
        vmworld.publish(
            "release", str(self.site), CHANNEL, f"web={pinned}", "--keys",
            str(self.directory / "keys"), "--cache", str(self.directory / "cache"),
            "--platform", "linux/amd64",
        )  # fmt: skip

    def boot(self, machine: Machine, *, network: bool) -> None:
        """Turn the device on, wait until its apps are healthy, say how long it took."""
        machine.start()
        if not network:
            machine.plug(False)
        machine.wait_for_channel(vmlaw.HEALTHY_WITHIN)
        self.healthy(machine)
        self.tell(f"  its apps are healthy {machine.seconds:.0f} s after power-on")
        self.visit(machine)

    def healthy(self, machine: Machine) -> None:
        """Wait until the apps are healthy."""
        machine.run(vmlaw.ASK, "healthy", str(vmlaw.HEALTHY_WITHIN), timeout=vmlaw.HEALTHY_WITHIN)

    def visit(self, machine: Machine) -> None:
        """Ask the web app, as any client of the device would."""
        self.tell(f"  the web app says: {machine.run('python3', '-c', VISIT).out.strip()}")

    def wait(self, machine: Machine, version: int, *states: str) -> None:
        """Wait until a release is in one of these states, and say so."""
        machine.run(vmlaw.ASK, "state", str(version), *states, timeout=960)
        self.tell(f"  release {version} is {' or '.join(states)}")


def main() -> int:
    """Tell the story."""
    directory = Path(tempfile.mkdtemp(prefix="composeapps-demo-", dir="/var/tmp"))
    try:
        tell(Story(directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def tell(story: Story) -> None:
    """Do it all."""
    directory = story.directory
    shutil.copytree(images.layout(), directory / "images")
    story.tell("A maker publishes a Compose app, signs release 1 and makes a device image of it.")
    vmworld.publish("init", str(story.site), "--keys", str(directory / "keys"))
    story.publish(1)
    vmworld.preload(story.site, directory / "factory")
    server = vmworld.Server(story.site)
    disk = vmworld.device_disk(directory / "disk.raw", directory / "factory", POLLING)
    options = Options(run_files={"composeapps-test/ask": vmlaw.ASK_FILE})
    machine = Machine(directory / "machine", disk, options)
    machine.reach(vmworld.PORT, server.address)
    try:
        first(story, machine)
        updates(story, machine)
        damages(story, machine, server)
    finally:
        machine.close()
        server.close()


def first(story: Story, machine: Machine) -> None:
    """First boot."""
    story.tell("The device boots for the first time, with no network.")
    story.boot(machine, network=False)
    listening = machine.run("ss", "-Hlntu").out.split()[4:5]
    story.tell(f"  what listens on it is what the app publishes: {' '.join(listening)}")
    machine.plug(True)


def updates(story: Story, machine: Machine) -> None:
    """Release 2, and a power cut in the middle."""
    story.tell("The maker publishes and signs release 2. The device finds it by itself.")
    story.publish(2)
    story.wait(machine, 2, "installing")
    loss = machine.cut(random.Random(1))
    story.tell(
        f"Its power goes; {loss.lost} writes that were not flushed are lost. It boots, offline."
    )
    story.boot(machine, network=False)
    machine.plug(True)
    story.tell("The network is back: it finishes the update.")
    story.wait(machine, 2, "committed")
    story.healthy(machine)
    story.visit(machine)


def damages(story: Story, machine: Machine, server: vmworld.Server) -> None:
    """Docker's store is destroyed; a bad release comes."""
    story.tell(
        "Docker's and containerd's whole stores are destroyed. It heals itself; volumes stay."
    )
    machine.run("sh", "-c", DESTROY)
    story.healthy(machine)
    story.visit(machine)
    story.tell("Release 3 is bad: it never gets healthy. The device goes back by itself.")
    story.publish(WEB_UNHEALTHY)
    story.wait(machine, 3, "failed")
    story.healthy(machine)
    story.visit(machine)
    deadline = time.monotonic() + 120
    while not any(event["kind"] == "failed" for event in server.events):
        if time.monotonic() > deadline:
            raise SystemExit("demo: the outcome was not reported")
        time.sleep(1)
    failed = next(event for event in server.events if event["kind"] == "failed")
    story.tell(f"  it reported: {str(failed['body'].get('reason', failed['body']))[:160]}")
    story.tell("That is all.")


if __name__ == "__main__":
    sys.exit(main())
