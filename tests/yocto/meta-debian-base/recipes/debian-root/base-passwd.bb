SUMMARY = "What classes want to find in the sysroot: users, groups, Python's site-packages"
LICENSE = "CLOSED"
PROVIDES = "base-passwd python3 shadow-sysroot virtual/base-passwd"
PACKAGES = "${PN}-sysroot"
ALLOW_EMPTY:${PN}-sysroot = "1"
do_install () {
    files=${COREBASE}/meta/recipes-devtools/pseudo/files
    install -D -m 0644 $files/fallback-passwd ${D}${sysconfdir}/passwd
    install -D -m 0644 $files/fallback-group ${D}${sysconfdir}/group
    install -d ${D}${libdir}/python3.13/site-packages/none
    touch ${D}${libdir}/python3.13/site-packages/none/none
}
SYSROOT_DIRS += "${sysconfdir}"
do_package_qa[noexec] = "1"
FILES:${PN}-sysroot = "/*"
