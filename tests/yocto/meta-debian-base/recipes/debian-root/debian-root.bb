SUMMARY = "A Debian tree as one package"
LICENSE = "CLOSED"

# Made by mmdebstrap; its path is not part of the signature, its digest is.
DEBIAN_TREE ?= ""
DEBIAN_TREE_ID ?= ""
PV = "13"

do_fetch[noexec] = "1"
do_unpack[noexec] = "1"
do_configure[noexec] = "1"
do_compile[noexec] = "1"
do_package_qa[noexec] = "1"
do_populate_sysroot[noexec] = "1"

do_install[vardeps] = "DEBIAN_TREE_ID"
do_install[vardepsexclude] = "DEBIAN_TREE"
do_install () {
    tar -xf ${DEBIAN_TREE} -C ${D} --exclude=./boot/* --exclude=./dev/* --exclude=./usr/lib/modules \
        --exclude=./usr/lib/sysusers.d --exclude=./var/lib/apt/* --exclude=./var/lib/dpkg/* \
        --exclude=./var/cache/* --exclude=./etc/machine-id --exclude=./etc/docker/daemon.json \
        --exclude=./etc/containerd --exclude=./var/log/* --exclude=./etc/fstab
    sed -i 's/^root:[^:]*:/root::/' ${D}/etc/shadow
    # Debian's Python does not look where OE's classes install.
    echo /usr/lib/python3.13/site-packages > ${D}/usr/lib/python3/dist-packages/oe.pth
    printf '# The kernel mounts the root file system.\n' > ${D}/etc/fstab
    rm -rf ${D}/run ${D}/tmp ${D}/var/run ${D}/var/lock
    install -d ${D}/run ${D}/tmp ${D}/var/volatile ${D}/mnt/data
    chmod 1777 ${D}/tmp
}

python () {
    import json
    with open(d.expand("${COREBASE}/meta/recipes-devtools/python/python3/python3-manifest.json")) as file:
        text = file.read()
    manifest = json.loads(text[text.index("\n{") if not text.startswith("{") else 0:])
    names = ["python3-%s" % name for name in manifest]
    d.appendVar("RPROVIDES:debian-root", " " + " ".join(names))
}

PACKAGES = "${PN}"
FILES:${PN} = "/*"
RPROVIDES:${PN} = "\
    base-files base-passwd ca-certificates docker docker-compose e2fsprogs-e2fsck e2fsprogs-mke2fs \
    e2fsprogs-resize2fs erofs-utils netbase python3-cryptography python3-docker python3-pyyaml \
    python3-requests python3-urllib3 python3-zstandard shadow shadow-base systemd util-linux-mount \
    run-postinsts run-postinsts meta-environment-extsdk-${MACHINE} util-linux-partx util-linux-sfdisk virtual-containerd \
"
RCONFLICTS:${PN} = ""
