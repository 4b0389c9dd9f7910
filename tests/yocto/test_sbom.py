"""The SBOM of an image names the apps in it, and their images.

Always: the class's step for SPDX 2.2, on an archive as openembedded-core writes it. Where bitbake
has built an image: its SBOM, which is SPDX 2.2 on scarthgap and 3.0 on wrynose.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yoctodevice
import zstandard
from fakebuild import FakeBuild

RELEASE = yoctodevice.DIRECTORY / "factory" / "release.json"
DIGEST = "sha256:" + "a" * 64
CONTENTS = {
    "platform": "linux/arm64",
    "apps": {"web": {"artifact": f"r.test/apps/web@{DIGEST}", "images": [f"r.test/web@{DIGEST}"]}},
}
#: Runs the step as do_rootfs does.
FAKE_CLASS = """\
addtask spdx
python do_spdx () {
    bb.build.exec_func("composeapps_sbom_22", d)
}
"""


def write(path: Path, documents: dict[str, Any]) -> None:
    """Write an archive of SPDX documents, its index last."""
    index = []
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, value in documents.items():
            data = json.dumps(value).encode()
            index.append({"filename": name, "sha1": hashlib.sha1(data).hexdigest()})
            add(archive, name, data)
        add(archive, "index.json", json.dumps({"documents": index}).encode())
    path.write_bytes(zstandard.compress(buffer.getvalue()))


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def read(path: Path) -> dict[str, bytes]:
    """Return the documents of an archive."""
    with (
        path.open("rb") as file,
        zstandard.open(file, "rb") as plain,
        tarfile.open(fileobj=plain, mode="r|") as archive,
    ):
        return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def test_the_step_for_spdx_2_2_adds_packages_and_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "root.json").write_text("{}")
    factory = tmp_path / "factory"
    factory.mkdir()
    (factory / "contents.json").write_text(json.dumps(CONTENTS))
    build = FakeBuild(tmp_path / "build", "scarthgap")
    (build.directory / "classes" / "create-spdx-2.2.bbclass").write_text(FAKE_CLASS)
    archive = tmp_path / "image-1.spdx.tar.zst"
    own = {
        "packages": [{"SPDXID": "SPDXRef-Image-1", "name": "composeapps-image"}],
        "relationships": [],
    }
    write(archive, {"image-1.spdx.json": own, "other.spdx.json": {"packages": []}})
    before = read(archive)
    values = {
        "COMPOSEAPPS_FACTORY": str(factory),
        "COMPOSEAPPS_PRELOAD": f"web={CONTENTS['apps']['web']['artifact']}",  # type: ignore[index]
        "COMPOSEAPPS_ROOT": str(tmp_path / "root.json"),
        "COMPOSEAPPS_URL": "https://updates.example/",
        "INHERIT": "create-spdx-2.2",
        "IMAGE_NAME": "image-1",
        "IMGDEPLOYDIR": str(tmp_path),
        "BB_NUMBER_THREADS": "1",
    }
    build.configure(values)
    done = build.run("run", "composeapps-image", "do_spdx")
    assert (done.code, done.errors) == (0, []), done.said
    after = read(archive)
    assert after["other.spdx.json"] == before["other.spdx.json"]
    document = json.loads(after["image-1.spdx.json"])
    check_22(document, {"web": f"r.test/web@{DIGEST}"})
    purl = f"pkg:oci/web@sha256%3A{'a' * 64}?arch=arm64&repository_url=r.test/apps/web"
    assert document["packages"][1]["externalRefs"][0]["referenceLocator"] == purl
    (listed, _) = json.loads(after["index.json"])["documents"]
    assert listed["sha1"] == hashlib.sha1(after["image-1.spdx.json"]).hexdigest()


def check_22(document: Any, images: dict[str, str]) -> None:
    """Check that a document's image contains apps, and these contain images."""
    names = {package["SPDXID"]: package["name"] for package in document["packages"]}
    contains = {
        (names[item["spdxElementId"]], names[item["relatedSpdxElement"]])
        for item in document["relationships"]
        if item["relationshipType"] == "CONTAINS" and item["relatedSpdxElement"] in names
    }
    pairs = {("composeapps-image", app) for app in images}
    pairs |= {(app, image.partition("@")[0]) for app, image in images.items()}
    assert contains == pairs


@pytest.fixture
def built() -> dict[str, str]:
    """Return the image by app of what bitbake has built."""
    if not list(yoctodevice.DIRECTORY.glob("*.spdx*")):
        pytest.skip(f"no SBOM of bitbake's in {yoctodevice.DIRECTORY}: make yocto makes one")
    apps = json.loads(RELEASE.read_text())["apps"]
    found = {}
    for name, app in apps.items():
        blobs = RELEASE.parent / "blobs" / "sha256"
        manifest = json.loads((blobs / app["artifact"].rpartition(":")[2]).read_text())
        pins = (blobs / manifest["layers"][-1]["digest"].removeprefix("sha256:")).read_text()
        (found[name],) = [line.split()[1] for line in pins.splitlines() if "image:" in line]
    return found


def test_the_sbom_that_bitbake_wrote_names_apps_and_images(built: dict[str, str]) -> None:
    archives = list(yoctodevice.DIRECTORY.glob("*.rootfs.spdx.tar.zst"))
    if archives:
        documents = read(archives[0])
        own = [name for name in documents if name.startswith("composeapps-image-")]
        check_22(json.loads(documents[own[0]]), built)
        listed = {item["filename"]: item["sha1"] for item in index_of(documents)}
        assert all(hashlib.sha1(documents[name]).hexdigest() == listed[name] for name in own)
        return
    (path,) = yoctodevice.DIRECTORY.glob("*.rootfs.spdx.json")
    graph = json.loads(path.read_text())["@graph"]
    names = {item.get("spdxId"): item.get("name") for item in graph}
    contains = {
        (names.get(item["from"]), names.get(target))
        for item in graph
        if item.get("relationshipType") == "contains"
        for target in item["to"]
    }
    for app, image in built.items():
        assert ("composeapps-image", app) in contains
        assert (app, image.partition("@")[0]) in contains


def index_of(documents: dict[str, bytes]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(documents["index.json"])["documents"]
    return found
