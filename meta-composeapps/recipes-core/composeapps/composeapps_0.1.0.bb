SUMMARY = "Keeps signed Docker Compose apps running and updated"
SUMMARY:${PN}-data = "The data partition, mounted on /var, grown and mended at boot"
SUMMARY:${PN}-engine = "Settings of Docker and containerd that composeapps relies on"
SUMMARY:${PN}-publish = "Publish signed releases of Docker Compose apps"
DESCRIPTION = "The device's agent runs Compose apps from sealed image layers, updates them from \
signed releases and goes back to a release that works. The publisher is the maker's side of it."
HOMEPAGE = "https://composeapps.example/"
SECTION = "devel/python"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://../LICENSE;md5=15e2b3f3117ceb7cf8be2720a009e88b"

# The layer lies in the agent's own repository, so both always fit together.
FILESEXTRAPATHS:prepend := "${THISDIR}/../../..:"

SRC_URI = "\
    file://LICENSE \
    file://agent \
    file://run-ptest \
    file://var.mount \
    ${@bb.utils.contains('PTEST_ENABLED', '1', 'file://tests file://qemu/tree.py', '', d)} \
"

# UNPACKDIR came after scarthgap.
COMPOSEAPPS_UNPACKDIR = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"
S = "${COMPOSEAPPS_UNPACKDIR}/agent"

inherit features_check ptest python_flit_core systemd

REQUIRED_DISTRO_FEATURES:class-target = "composeapps systemd usrmerge"

do_unpack[postfuncs] += "composeapps_drop_leftovers"
composeapps_drop_leftovers () {
    # What running the agent in the work tree has left there.
    find ${S} -name __pycache__ -prune -exec rm -r {} +
}

do_install:append:class-target () {
    sh ${S}/system/install ${D}
    install -m 0644 ${COMPOSEAPPS_UNPACKDIR}/var.mount ${D}${systemd_system_unitdir}
}

do_install_ptest () {
    cp -r --no-preserve=ownership ${COMPOSEAPPS_UNPACKDIR}/tests ${COMPOSEAPPS_UNPACKDIR}/qemu ${D}${PTEST_PATH}
    install -m 0644 ${S}/pyproject.toml ${D}${PTEST_PATH}
}

PACKAGE_BEFORE_PN = "${PN}-data ${PN}-engine ${PN}-publish"

SYSTEMD_PACKAGES = "${PN} ${PN}-data"
SYSTEMD_SERVICE:${PN} = "composeapps.service composeapps-mount.service composeapps-start.service"
SYSTEMD_SERVICE:${PN}-data = "composeapps-machine-id.service var.mount"

FILES:${PN} += "\
    ${nonarch_libdir}/composeapps/composeapps.toml \
    ${nonarch_libdir}/tmpfiles.d \
    ${systemd_unitdir} \
"
FILES:${PN}-data = "\
    ${nonarch_libdir}/composeapps/data-partition \
    ${nonarch_libdir}/composeapps/keep-machine-id \
    ${systemd_system_unitdir}/composeapps-data.service \
    ${systemd_system_unitdir}/composeapps-machine-id.service \
    ${systemd_system_unitdir}/var.mount \
"
FILES:${PN}-engine = "\
    ${sysconfdir}/containerd \
    ${sysconfdir}/docker \
    ${systemd_system_unitdir}/containerd.service.d \
    ${systemd_system_unitdir}/docker.service.d \
"
FILES:${PN}-publish = "\
    ${PYTHON_SITEPACKAGES_DIR}/composeapps/publish \
    ${bindir}/composeapps-publish \
"
CONFFILES:${PN}-engine = "\
    ${sysconfdir}/containerd/config.toml \
    ${sysconfdir}/docker/daemon.json \
"

# Of the standard library what a module of the agent imports; tests/yocto checks it.
RDEPENDS:${PN} = "\
    python3-asyncio \
    python3-compile \
    python3-compression \
    python3-core \
    python3-crypt \
    python3-ctypes \
    python3-datetime \
    python3-email \
    python3-fcntl \
    python3-io \
    python3-json \
    python3-logging \
    python3-math \
    python3-netclient \
    python3-numbers \
    python3-shell \
    python3-tuf \
    python3-urllib3 \
    python3-zstandard \
"
RDEPENDS:${PN}:append:class-target = " \
    ${PN}-engine \
    docker \
    docker-compose \
    erofs-utils \
    python3-docker \
    python3-requests \
    python3-sqlite3 \
    python3-tomllib \
    util-linux-mount \
    virtual-composeapps-conf \
"
RDEPENDS:${PN}:append:class-native = " python3-cryptography python3-pyyaml"
RDEPENDS:${PN}-data = "\
    ${PN} \
    e2fsprogs-e2fsck \
    e2fsprogs-mke2fs \
    e2fsprogs-resize2fs \
    util-linux-mount \
    util-linux-partx \
    util-linux-sfdisk \
"
RDEPENDS:${PN}-publish = "\
    ${PN} \
    python3-cryptography \
    python3-pyyaml \
    python3-unixadmin \
"
RDEPENDS:${PN}-ptest += "\
    ${PN}-publish \
    python3-hypothesis \
    python3-jsonschema \
    python3-pytest \
    python3-unittest-automake-output \
"
RRECOMMENDS:${PN}:append:class-target = " \
    kernel-module-erofs \
    kernel-module-loop \
    kernel-module-overlay \
"

BBCLASSEXTEND = "native"
