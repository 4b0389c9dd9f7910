"""The law (design, section 8), asked from outside through real means; each answer is a sentence."""

from __future__ import annotations

import hashlib
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from crashdevice import APP, DATA, LAYERS, STORES, CrashDevice

OUTCOMES = ("committed", "failed")
SWITCHING = ("installing", "starting", "rolling-back")
SNAPSHOTS = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
CTR = ("ctr", "--address", "/run/containerd/containerd.sock", "--namespace", "moby")
#: In /proc/net: the state of a socket that listens, or (UDP) takes what anybody sends.
LISTENS = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}


@dataclass(frozen=True)
class Expected:
    """What a device has to come to, whatever happened on the way."""

    #: Version of the release that is current at the end.
    current: int
    #: By version, how each update of this trial has to end.
    outcomes: dict[int, str] = field(default_factory=dict)
    #: Version of the release that can run, offline, before the update; 0 for none.
    before: int = 0

    def superseded(self, version: int) -> Expected:
        """Return what is expected where a newer good release came meanwhile.

        The older one may have been left before it was switched to, and has no outcome then.
        """
        return Expected(version, {version: "committed"}, self.before)


def broken(device: CrashDevice, expected: Expected, log: list[str]) -> Iterator[str]:
    """Yield what of the law does not hold on a device that has come to rest, online.

    Args:
        log: the lines that the app had written until the crash.
    """
    yield from running(device, {expected.current})
    yield from _stored(device)
    yield from _volume(device, log)
    yield from _reported(device, expected)
    yield from _listening(device)
    yield from _leftovers(device)


def resumed(device: CrashDevice, expected: Expected, log: list[str]) -> Iterator[str]:
    """Yield what does not hold on a device that was started without a network."""
    yield from running(device, {expected.before, expected.current})
    yield from _volume(device, log)


def at_once(device: CrashDevice) -> Iterator[str]:
    """Yield what may not even be so for a moment, on a device just killed: nothing has mended it.

    A final name means finished bytes, and an engine snapshot that has a chain's name is a link to a
    sealed layer already (what the engine starts after a power cut stands on it).
    """
    yield from _named(device)
    rows = device.bed.run(*CTR, "snapshots", "ls", check=False).stdout.splitlines()
    chains = sum(row.startswith("sha256:") for row in rows)
    found = device.bed.path(SNAPSHOTS)
    links = sum((path / "fs").is_symlink() for path in found.iterdir()) if found.is_dir() else 0
    if links < chains:
        yield f"at once: the engine has {chains} chains, {links} of them are links"


def running(device: CrashDevice, versions: set[int]) -> Iterator[str]:
    """L1 and L6: one of these releases is current, and exactly its app is there and is healthy."""
    current = device.current()
    if current not in versions:
        yield f"L1: release {current} is current, not one of {sorted(versions)}"
    under_way = device.rows(f"SELECT version, state FROM release WHERE state IN {SWITCHING}")
    stand_in = device.rows("SELECT value FROM meta WHERE key = 'stand-in'")
    if under_way or stand_in:
        yield f"L1: under way {under_way}, stand-in {stand_in}"
    wanted = device.images.get(current, "none")
    client = docker.APIClient(base_url=f"unix://{device.bed.path('/run/docker.sock')}")
    try:
        found = [client.inspect_container(row["Id"]) for row in client.containers(all=True)]
        held = {name for image in client.images() for name in image["RepoDigests"] or []}
        networks = sorted(row["Name"] for row in client.networks())
    finally:
        client.close()
    is_ = [(c["Config"]["Image"], c["Image"], _health(c)) for c in found]
    if is_ != [(wanted, wanted.partition("@")[2], "healthy")]:
        yield f"L1, L6: the containers are {is_}, release {current} names {wanted}"
    # Docker 29 leaves the repository out where there is no tag.
    strangers = {name.rpartition("@")[2] for name in held} - {
        name.rpartition("@")[2] for name in device.images.values()
    }
    if strangers:
        yield f"L6: the engine holds images that no release names: {sorted(strangers)}"
    if networks != sorted([f"{APP}_default", "bridge", "host", "none"]):
        yield f"left over: the engine has the networks {networks}"


def _health(container: Mapping[str, Any]) -> str:
    return str(container["State"].get("Health", {}).get("Status"))


def _stored(device: CrashDevice) -> Iterator[str]:
    """L2, by the agent's own look and by one that shares no code with it."""
    done = device.run("verify", "--deep")
    if done.code != 0:
        yield f"L2: {done}"
    yield from _named(device)


def _named(device: CrashDevice) -> Iterator[str]:
    store = device.bed.path(f"{DATA}/store")
    for path in [*store.glob("blobs/sha256/*"), *store.glob("layers/*")]:
        if path.name.startswith(".tmp-"):
            continue
        wanted = path.name.removesuffix(".erofs").rpartition(".")[2]
        if hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            yield f"L2: {path.relative_to(store)} has other bytes than its name says"


def _volume(device: CrashDevice, log: list[str]) -> Iterator[str]:
    """L3: what was written before is there, and nothing has come between."""
    now = device.log()
    if now[: len(log)] != log:
        yield f"L3: the volume held {log[-5:]}, now it ends with {now[-5:]}"


def _reported(device: CrashDevice, expected: Expected) -> Iterator[str]:
    """L4: each update has one outcome, and the report server got it under the same id."""
    events = {event["id"]: event for event in device.events()}
    delivered = {event["id"]: event for event in device.delivered()}
    for version, outcome in expected.outcomes.items():
        for where, found in (("state", events), ("report server", delivered)):
            kinds = [
                event["kind"]
                for event in found.values()
                if event["body"].get("version") == version and event["kind"] in OUTCOMES
            ]
            if kinds != [outcome]:
                yield f"L4: the {where} has {kinds} for release {version}, not one {outcome}"
    for event in device.delivered():
        known = events.get(event["id"])
        if known is not None and (event["kind"], event["body"]) != (known["kind"], known["body"]):
            yield f"L4: event {event['id']} was delivered with another content: {event}, {known}"
    unsent = [event["kind"] for event in events.values() if not event["sent"]]
    if unsent:
        yield f"L4: not reported although the network is back: {unsent}"


def _listening(device: CrashDevice) -> Iterator[str]:
    """L5: nothing but this test's own server has a port (the app publishes none)."""
    for name, state in LISTENS.items():
        lines = Path(f"/proc/{device.bed.pid}/net/{name}").read_text().splitlines()[1:]
        for row in (line.split() for line in lines):
            port = int(row[1].rpartition(":")[2], 16)
            if row[3] == state and port != device.port:
                yield f"L5: something listens on {name} port {port}"


def _leftovers(device: CrashDevice) -> Iterator[str]:
    """Nothing is left half done once a writer has ended: names, mounts, engine snapshots."""
    for store in (*STORES, f"{DATA}/trust", f"{DATA}/trust/sets", f"{DATA}/apps"):
        yield from _temporary(device, store)
    for store in (f"{DATA}/store/layers", f"{DATA}/store/blobs/sha256", f"{DATA}/ingest"):
        yield from _temporary(device, store)
    for path in device.bed.path(SNAPSHOTS).glob("*/.tmp-*"):
        yield f"left over: {path}"
    yield from _left_in_run(device)
    keys = device.bed.run(*CTR, "snapshots", "ls").stdout.split()
    leases = device.bed.run(*CTR, "leases", "ls", "-q").stdout.split()
    for name in keys + leases:
        if name.startswith("composeapps-"):
            yield f"left over in containerd: {name}"


def _temporary(device: CrashDevice, directory: str) -> Iterator[str]:
    for path in device.bed.path(directory).glob(".tmp-*"):
        yield f"left over: {directory}/{path.name}"


def _left_in_run(device: CrashDevice) -> Iterator[str]:
    """Scratch files on the tmpfs, sealed layers mounted twice or without a file, loop devices."""
    strays = [path.name for path in device.bed.path("/run/composeapps").iterdir()]
    strays += [path.name for path in device.bed.path("/tmp").iterdir() if not _foreign(path)]
    if strays != ["layers"]:
        yield f"left over in /run/composeapps and /tmp: {strays}"
    lines = Path(f"/proc/{device.bed.pid}/mountinfo").read_text().splitlines()
    points = Counter(line.split()[4] for line in lines)
    files = {path.stem for path in device.bed.path(f"{DATA}/store/layers").iterdir()}
    files |= {path.stem for path in (device.bed.share / "factory").glob("layers/*")}
    mounted = {p for p in points if p.startswith(f"{LAYERS}/")}
    for point in sorted(mounted):
        if points[point] != 1 or point.removeprefix(f"{LAYERS}/") not in files:
            yield f"left over: {point} is mounted {points[point]} times"
    for path in device.bed.path(LAYERS).iterdir():
        if f"{LAYERS}/{path.name}" not in mounted:
            yield f"left over: {LAYERS}/{path.name} has nothing mounted"
    loops = subprocess.run(["losetup", "-n", "-O", "BACK-FILE"], capture_output=True, check=True)
    ours = loops.stdout.decode().count(f"{device.bed.directory}/")
    if ours != 1:
        yield f"left over: {ours} loop devices, not one"


def _foreign(path: Path) -> bool:
    """Say whether a file is runc's, for a health check, or Python's own trial of the directory."""
    try:
        return path.name.startswith("runc-") or path.read_bytes() in (b"", b"blat")
    except FileNotFoundError:
        return True


def grown(device: CrashDevice) -> Iterator[str]:
    """Yield what a device holds beyond the kept releases, after two undisturbed updates."""
    store = device.bed.path(f"{DATA}/store")
    factory = int(device.factory_version > 0)
    counts = {
        # The base layer is shared, and in the factory store where there is one.
        "sealed layers": (len(list(store.glob("layers/*"))), 3 - factory),
        "projects": (len(list(device.bed.path(f"{DATA}/apps").iterdir())), 2 + factory),
        "downloads": (len(list(device.bed.path(f"{DATA}/ingest").iterdir())), 0),
        "trust sets": (len(list(device.bed.path(f"{DATA}/trust/sets").iterdir())), 1),
        "engine images": (
            len(device.bed.run(*CTR, "images", "ls", "-q").stdout.split()),
            2 + factory,
        ),
    }
    snapshots = device.bed.run(*CTR, "snapshots", "ls").stdout
    # Three layers and what Docker itself puts on top of them for a container.
    counts["engine snapshots"] = (snapshots.count("Committed"), 4 + factory)
    for what, (count, wanted) in counts.items():
        if count != wanted:
            yield f"grown: {count} {what}, not {wanted}"
            if what == "engine snapshots":
                leases = device.bed.run(*CTR, "leases", "ls").stdout
                yield f"they are:\n{snapshots}\n{leases}"
