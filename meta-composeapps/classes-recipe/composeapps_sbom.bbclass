# Names the apps of composeapps_preload, and their images, in the image's SBOM.
#
# With create-spdx-3.0 they become packages of the root file system's document, which the image's is
# made of; with create-spdx-2.2 (scarthgap's default) packages of the image's own. What is inside an
# image of an app is said by the SBOM that its maker published with it, and by nobody here.

def composeapps_elements(d):
    """Yield (id, name, digest, purl, what, parent's id) of every app, then of its images."""
    import json
    import os
    from urllib.parse import quote
    path = d.getVar("COMPOSEAPPS_FACTORY") + "/contents.json"
    if not d.getVar("COMPOSEAPPS_PRELOAD") or not os.path.exists(path):
        return
    with open(path) as file:
        contents = json.load(file)
    arch = contents["platform"].split("/")[1]

    def purl(reference):
        # https://github.com/package-url/purl-spec, type oci
        repository, _, digest = reference.partition("@")
        name = repository.rpartition("/")[2].lower()
        return "pkg:oci/%s@%s?arch=%s&repository_url=%s" % (name, quote(digest, safe=""), arch, quote(repository, safe="/"))

    for name, app in sorted(contents["apps"].items()):
        parent = "App-" + name
        yield parent, name, app["artifact"].rpartition("@")[2], purl(app["artifact"]), "application", ""
        for image in app["images"]:
            repository, _, digest = image.partition("@")
            yield "Image-%s-%s" % (name, digest.rpartition(":")[2]), repository, digest, purl(image), "container", parent

composeapps_elements[vardepsexclude] = "COMPOSEAPPS_FACTORY"

do_create_rootfs_spdx[postfuncs] += "composeapps_sbom_30"
python composeapps_sbom_30 () {
    import oe.sbom30
    import oe.spdx30
    from pathlib import Path
    deployed = Path(d.getVar("SPDXROOTFSDEPLOY"))
    name = d.expand("${IMAGE_BASENAME}-${MACHINE}-rootfs")
    path = oe.sbom30.jsonld_arch_path(d, d.getVar("SSTATE_PKGARCH"), "rootfs", name, deploydir=deployed)
    document = oe.sbom30.load_jsonld(d, path, required=True)
    packages = {"": document.find_root(oe.spdx30.software_Package)}
    for key, name, digest, purl, what, parent in composeapps_elements(d):
        packages[key] = document.add(oe.spdx30.software_Package(
            _id=document.new_spdxid("composeapps", key),
            creationInfo=document.doc.creationInfo,
            name=name,
            software_packageVersion=digest,
            software_packageUrl=purl,
            software_primaryPurpose=getattr(oe.spdx30.software_SoftwarePurpose, what),
            verifiedUsing=[oe.spdx30.Hash(algorithm=oe.spdx30.HashAlgorithm.sha256, hashValue=digest.rpartition(":")[2])],
        ))
        document.new_relationship([packages[parent]], oe.spdx30.RelationshipType.contains, [packages[key]])
    if len(packages) > 1:
        # The document's own link is there already.
        oe.sbom30.write_recipe_jsonld_doc(d, document, "rootfs", deployed, create_spdx_id_links=False)
}

# After image_combine_spdx, which has written the archive.
ROOTFS_POSTUNINSTALL_COMMAND:append = " composeapps_sbom_22"
python composeapps_sbom_22 () {
    import bb.compress.zstd
    import hashlib
    import io
    import json
    import os
    import tarfile
    elements = list(composeapps_elements(d))
    if not elements or not bb.data.inherits_class("create-spdx-2.2", d):
        return
    own = d.getVar("IMAGE_NAME") + ".spdx.json"
    path = d.expand("${IMGDEPLOYDIR}/${IMAGE_NAME}.spdx.tar.zst")
    threads = int(d.getVar("BB_NUMBER_THREADS"))
    digest = ""
    with bb.compress.zstd.open(path, "rb", num_threads=threads) as source, \
            tarfile.open(fileobj=source, mode="r|") as old, \
            bb.compress.zstd.open(path + ".new", "wb", num_threads=threads) as target, \
            tarfile.open(fileobj=target, mode="w|") as new:
        for member in old:
            data = old.extractfile(member).read()
            if member.name == own:
                data = composeapps_extended(json.loads(data), elements)
                digest = hashlib.sha1(data).hexdigest()
            elif member.name == "index.json":
                index = json.loads(data)
                for document in index["documents"]:
                    if document["filename"] == own:
                        document["sha1"] = digest
                data = json.dumps(index, sort_keys=True).encode()
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    os.replace(path + ".new", path)
}
composeapps_sbom_22[vardepsexclude] = "BB_NUMBER_THREADS IMAGE_NAME"

def composeapps_extended(document, elements):
    """Return an SPDX 2.2 document of an image, as bytes, with packages for elements."""
    import json
    (image,) = [package["SPDXID"] for package in document["packages"]]
    ids = {"": image}
    for key, name, digest, purl, what, parent in elements:
        ids[key] = "SPDXRef-" + key.replace("_", ".")
        document["packages"].append({
            "SPDXID": ids[key],
            "name": name,
            "versionInfo": digest,
            "checksums": [{"algorithm": "SHA256", "checksumValue": digest.rpartition(":")[2]}],
            "copyrightText": "NOASSERTION",
            "downloadLocation": "NOASSERTION",
            "externalRefs": [{"referenceCategory": "PACKAGE_MANAGER", "referenceType": "purl", "referenceLocator": purl}],
            "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
        })
        document.setdefault("relationships", []).append({
            "spdxElementId": ids[parent], "relationshipType": "CONTAINS", "relatedSpdxElement": ids[key],
        })
    return json.dumps(document, sort_keys=True).encode()
