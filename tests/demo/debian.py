"""Debian packages as material for image layers, downloaded once by mmdebstrap.

mmdebstrap's ``extract`` variant lets apt choose and fetch a consistent set and runs no maintainer
script, so that any architecture can be made on any. Mirrors are the ones that mmdebstrap knows.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.layers import Entry, file
from tree import cache_directory

SUITE = "trixie"
#: Needed by maintainer scripts and package tools only; a container never runs those.
OMITTED = frozenset(
    "adduser debconf debconf-2.0 dpkg init-system-helpers libpam-modules libpam-runtime libpam0g "
    "mawk media-types netbase passwd ucf".split()
)
#: Left out of layers, as slim images do.
EXCLUDED = re.compile(
    r"(usr/share/(doc|man|locale|info|lintian|bash-completion|common-licenses)/.+"
    r"|usr/lib/systemd/.+|etc/(init\.d|logrotate\.d)/.+"
    r"|usr/lib/python3\.\d+/(ensurepip|idlelib|pydoc_data|test|tkinter|turtle.*)(/.*)?)"
)


@dataclass(frozen=True)
class Package:
    """One ``.deb`` file."""

    name: str
    version: str
    path: Path
    #: Of each dependency the packages that satisfy it, versions left out: apt has judged them.
    depends: tuple[tuple[str, ...], ...]


class Pool:
    """The downloaded packages of one architecture, and what their files extract to."""

    def __init__(self, root: Path) -> None:
        #: A root directory with everything extracted into it, nothing configured.
        self.root = root
        found = [read_package(path) for path in sorted(archives(root).glob("*.deb"))]
        self.packages: Mapping[str, Package] = {package.name: package for package in found}

    @property
    def key(self) -> str:
        """A digest over every package's bytes."""
        digest = hashlib.sha256()
        for _, package in sorted(self.packages.items()):
            digest.update(package.path.read_bytes())
        return digest.hexdigest()

    def closure(self, names: Iterable[str], below: Iterable[str] = ()) -> list[Package]:
        """Return packages and all that they need, sorted by name, less those of layers below."""
        wanted, todo = set[str](), list(names)
        while todo:
            name = todo.pop()
            if name in wanted or name in OMITTED:
                continue
            wanted.add(name)
            for choices in self.packages[name].depends:
                todo += [choice for choice in choices if choice in self.packages][:1]
        return [self.packages[name] for name in sorted(wanted - set(below))]

    def tree(self, packages: Iterable[Package]) -> dict[str, Entry]:
        """Return the packages' files, byte code included, and their control data.

        The control data lies where scanners look in images without dpkg's database.
        """
        result: dict[str, Entry] = {}
        for package in packages:
            result.update(_entries(package))
            status = _dpkg_deb("--field", package.path)
            result[f"var/lib/dpkg/status.d/{package.name}"] = file(status)
        result.update(self._byte_code(result))
        return result

    def _byte_code(self, tree: Mapping[str, Entry]) -> dict[str, Entry]:
        result = {}
        for path in tree:
            source = Path(path)
            if source.suffix != ".py":
                continue
            for compiled in sorted((self.root / source.parent / "__pycache__").glob("*.pyc")):
                if compiled.name.split(".")[0] == source.stem:
                    name = source.parent / "__pycache__" / compiled.name
                    result[str(name)] = file(compiled.read_bytes())
        return result


def pool(names: Iterable[str], architecture: str) -> Pool:
    """Return the packages and all that they depend on, downloaded if they are not there yet.

    Raises:
        subprocess.CalledProcessError: mmdebstrap failed; its output is on stderr.
    """
    words = [SUITE, architecture, *sorted(names), Path(__file__).read_text()]
    key = hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
    final = cache_directory() / f"debian-{SUITE}-{architecture}-{key}"
    with (final.parent / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.exists():
            temporary = final.with_name(f".tmp-{final.name}")
            shutil.rmtree(temporary, ignore_errors=True)
            _download(names, architecture, temporary)
            os.replace(temporary, final)
    return Pool(final)


def host_architecture() -> str:
    """Return this machine's architecture by Debian's name, which is also OCI's (amd64, arm64)."""
    return subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()


def archives(root: Path) -> Path:
    """Return where apt leaves packages in a root directory."""
    return root / "var/cache/apt/archives"


def read_package(path: Path) -> Package:
    """Read a package's control data."""
    fields = ("Package", "Version", "Pre-Depends", "Depends")
    text = _dpkg_deb("--field", path, *fields).decode()
    values = dict(line.split(": ", 1) for line in text.splitlines())
    needs = f"{values.get('Pre-Depends', '')},{values.get('Depends', '')}"
    depends = tuple(
        tuple(re.split(r"[\s:(]", choice.strip(), maxsplit=1)[0] for choice in need.split("|"))
        for need in needs.split(",")
        if need.strip()
    )
    return Package(values["Package"], values["Version"], path, depends)


def _download(names: Iterable[str], architecture: str, root: Path) -> None:
    command = ["mmdebstrap", "--quiet", "--mode=root", "--variant=extract", "--format=directory"]
    command += ["--skip=essential/unlink,cleanup/apt", f"--architectures={architecture}"]
    command += [f"--include={','.join(names)}", SUITE, str(root)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    if architecture != host_architecture():
        return
    # As Debian's own packages do when they are configured; without it every start of an
    # interpreter compiles anew, seconds long in an emulator.
    program = next((root / "usr/bin").glob("python3.*")).name
    compile_all = [program, "-s", "-m", "compileall", "-q", "--invalidation-mode"]
    compile_all += ["unchecked-hash", f"/usr/lib/{program}", "/usr/lib/python3/dist-packages"]
    # Sets of strings are written in hash order: fixed, so that the same input gives the same bytes.
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"}
    subprocess.run(["chroot", str(root), *compile_all], check=True, env=environment)


def _entries(package: Package) -> dict[str, Entry]:
    tree: dict[str, Entry] = {}
    stream = io.BytesIO(_dpkg_deb("--fsys-tarfile", package.path))
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            path = member.name.removeprefix("./").rstrip("/")
            if path in ("", ".") or EXCLUDED.fullmatch(path):
                continue
            if not (member.isreg() or member.isdir() or member.issym()):
                raise ValueError(f"{package.path.name}: {path} is of a kind no layer here holds")
            content = archive.extractfile(member) if member.isreg() else None
            tree[path] = Entry(
                kind=member.type,
                mode=member.mode,
                data=content.read() if content else b"",
                link=member.linkname,
                uid=member.uid,
                gid=member.gid,
                mtime=int(member.mtime),
            )
    return tree


def _dpkg_deb(action: str, path: Path, *fields: str) -> bytes:
    return subprocess.check_output(["dpkg-deb", action, str(path), *fields])
