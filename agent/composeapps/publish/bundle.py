"""A channel's release with everything it needs on one platform, in one directory.

::

    metadata/   what a TUF client asks for from the image's root on, and nothing else
    targets/    the release
    oci/        an OCI image layout: app artifacts, and their images for the platform

A bundle is a repository like the one it was made of: a device reads it from a USB stick, a web
server can serve it, ``preload`` and ``bundle`` itself take it, with no network where it is a
directory. It appears under its name when it is complete.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tuf.api.metadata import Metadata

from composeapps.answers import Response
from composeapps.digests import file_digest
from composeapps.errors import ConfigError
from composeapps.oci import Descriptor, Platform, Reference, digest_of, hex_of
from composeapps.publish.apps import Tools, content_of, judge_platform
from composeapps.publish.artifact import EMPTY, Packed
from composeapps.publish.content import Content
from composeapps.publish.directories import new_output
from composeapps.publish.push import Layout
from composeapps.release import Release
from composeapps.trust import CheckResult

_FILE, _DIRECTORY = 0o644, 0o755
OCI = "oci"


@dataclass(frozen=True)
class Wanted:
    """What the channel's newest release has to be; nothing given means any."""

    #: Digest of the release document.
    release: str = ""
    #: Pinned reference by app name: these, and no others.
    apps: Mapping[str, str] = field(default_factory=dict)

    def judge(self, checked: CheckResult) -> None:
        """Compare; raises ConfigError that says what the repository has instead."""
        release = checked.release
        has = f"channel {release.channel} is at release {release.version}"
        if self.release and checked.digest != self.release:
            raise ConfigError(
                f"{has}, {checked.digest}, and not at {self.release}: name that one, or take a "
                "bundle of the other from where it was kept"
            )
        found = {name: Reference.parse(app.artifact).pinned() for name, app in release.apps.items()}
        if not self.apps or found == dict(self.apps):
            return
        names = sorted(
            name for name in {*found, *self.apps} if found.get(name) != self.apps.get(name)
        )
        name = names[0]
        raise ConfigError(
            f"{has}, which has {found.get(name, 'no such app')} as app {name} and not "
            f"{self.apps.get(name, 'none of that name')}: name the apps that were released"
        )


@dataclass
class Recorder:
    """Passes on what a TUF client asks for, and keeps what it got."""

    get: Callable[[str, int, str], Response]
    #: Base URL or path by directory of the bundle.
    bases: Mapping[str, str]
    #: Bytes by path in the bundle.
    files: dict[str, bytes] = field(default_factory=dict)

    def __call__(self, url: str, limit: int, etag: str) -> Response:
        """Be a ``Get``."""
        response = self.get(url, limit, etag)
        for name, base in self.bases.items():
            prefix = base.rstrip("/") + "/"
            if url.startswith(prefix):
                self.files[f"{name}/{url.removeprefix(prefix)}"] = response.body
        return response


class Reusing:
    """Content from earlier bundles where they have it, else from where it came before."""

    def __init__(self, content: Content, bundles: Path) -> None:
        """Use content.

        Args:
            bundles: directory with bundles; what else is in it does not matter.
        """
        self._content = content
        self._layouts = sorted(path / OCI for path in bundles.iterdir() if (path / OCI).is_dir())

    def resolve(self, reference: Reference) -> str:
        """See ``Content``."""
        return self._content.resolve(reference)

    def read(self, reference: Reference, digest: str, limit: int, kind: str) -> bytes:
        """See ``Content``; documents are small, and asked for anew."""
        return self._content.read(reference, digest, limit, kind)  # type: ignore[arg-type]

    @contextmanager
    def file(self, reference: Reference, blob: Descriptor) -> Iterator[Path]:
        """See ``Content``; a damaged blob of an earlier bundle is passed over."""
        for layout in self._layouts:
            path = layout / "blobs" / "sha256" / hex_of(blob.digest)
            if path.is_file() and file_digest(path) == blob.digest:
                yield path
                return
        with self._content.file(reference, blob) as path:
            yield path


def bundle(
    output: Path,
    platform: Platform,
    root: bytes,
    check: Callable[[Path], CheckResult],
    recorder: Recorder,
    wanted: Wanted,
    tools: Tools,
) -> Release:
    """Write a bundle.

    Args:
        output: is made; there must be nothing.
        root: the root that ``check`` starts from; the bundle has it too.
        check: looks for the release through ``recorder``, with a scratch directory.
        tools: need no Compose where the apps say their images themselves.

    Raises:
        UsageError: there is something under that name already.
        TrustError: the release does not chain to the root.
        ConfigError: it is not what is wanted, or has nothing for that platform.
        SourceError, IntegrityError: content could not be had.
    """
    with (
        tempfile.TemporaryDirectory(prefix="composeapps-") as scratch,
        new_output(output, _DIRECTORY) as temporary,
    ):
        checked = check(Path(scratch))
        wanted.judge(checked)
        version = Metadata.from_bytes(root).signed.version
        recorder.files.setdefault(f"metadata/{version}.root.json", root)
        _write(temporary, recorder.files)
        layout = Layout(temporary / OCI)
        for name, app in checked.release.apps.items():
            judge_platform(name, app, platform)
            reference = Reference.parse(app.artifact)
            content = content_of(reference, platform, tools)
            # Every layout reader wants the config too, which is the empty object.
            blobs = {**content.packed.blobs, digest_of(EMPTY): EMPTY}
            packed = Packed(content.packed.manifest, blobs)
            layout.add(packed, reference, content.survey, tools.content, tools.say)
        temporary.chmod(_DIRECTORY)
    return checked.release


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    for name, data in sorted(files.items()):
        path = directory / name
        path.parent.mkdir(_DIRECTORY, parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(_FILE)
