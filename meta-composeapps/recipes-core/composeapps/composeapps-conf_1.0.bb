SUMMARY = "What a product's devices follow and trust"
DESCRIPTION = "The channel, where releases come from, and the TUF root that every device trusts. \
A product sets the variables, appends to this recipe, or provides virtual-composeapps-conf itself."
HOMEPAGE = "https://composeapps.example/"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"

SRC_URI = "file://composeapps.toml.in"

# UNPACKDIR came after scarthgap.
COMPOSEAPPS_UNPACKDIR = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"
S = "${COMPOSEAPPS_UNPACKDIR}"

COMPOSEAPPS_ROOT ?= ""
COMPOSEAPPS_ROOT[doc] = "Path of the TUF root.json that devices trust."
COMPOSEAPPS_URL ?= ""
COMPOSEAPPS_URL[doc] = "URL of the repository that devices look for releases in."
COMPOSEAPPS_CHANNEL ?= "stable"
COMPOSEAPPS_CHANNEL[doc] = "The channel that devices follow."
COMPOSEAPPS_COMPOSE ?= "${nonarch_libdir}/docker/cli-plugins/docker-compose"
COMPOSEAPPS_COMPOSE[doc] = "Where Docker Compose is in the image."

inherit allarch features_check

REQUIRED_DISTRO_FEATURES = "composeapps"

INHIBIT_DEFAULT_DEPS = "1"

python () {
    root = d.getVar('COMPOSEAPPS_ROOT')
    if not root:
        raise bb.parse.SkipRecipe("set COMPOSEAPPS_ROOT to the root.json that devices trust")
    if not os.path.isabs(root) or not os.path.isfile(root):
        raise bb.parse.SkipRecipe("COMPOSEAPPS_ROOT has to be the path of a file, and %s is none" % root)
}

do_install[file-checksums] += "${COMPOSEAPPS_ROOT}:True"
do_install[vardepsexclude] += "COMPOSEAPPS_ROOT"
do_install () {
    install -D -m 0644 ${COMPOSEAPPS_ROOT} ${D}${datadir}/composeapps/root.json
    install -d ${D}${sysconfdir}/composeapps/conf.d
    sed -e 's|@CHANNEL@|${COMPOSEAPPS_CHANNEL}|' -e 's|@URL@|${COMPOSEAPPS_URL}|' \
        -e 's|@COMPOSE@|${COMPOSEAPPS_COMPOSE}|' ${COMPOSEAPPS_UNPACKDIR}/composeapps.toml.in \
        > ${D}${sysconfdir}/composeapps/composeapps.toml
    chmod 0644 ${D}${sysconfdir}/composeapps/composeapps.toml
}
do_configure[noexec] = "1"
do_compile[noexec] = "1"

FILES:${PN} += "${datadir}/composeapps"
CONFFILES:${PN} = "${sysconfdir}/composeapps/composeapps.toml"
RPROVIDES:${PN} += "virtual-composeapps-conf"
