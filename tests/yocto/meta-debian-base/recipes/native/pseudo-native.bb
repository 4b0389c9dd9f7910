SUMMARY = "Debian's newest pseudo"
LICENSE = "CLOSED"
PROVIDES = "pseudo-native virtual/fakeroot-native"
inherit native
PSEUDO_TREE ?= ""
do_install[vardepsexclude] = "PSEUDO_TREE"
do_install () {
    install -d ${D}${bindir} ${D}${prefix}/lib/pseudo/lib ${D}${prefix}/lib/x86_64-linux-gnu/pseudo ${D}${sysconfdir} ${D}${prefix}/var/pseudo
    install -m 0755 ${PSEUDO_TREE}/usr/bin/pseudo* ${D}${bindir}
    install -m 0644 ${PSEUDO_TREE}/usr/lib/x86_64-linux-gnu/pseudo/libpseudo.so ${D}${prefix}/lib/pseudo/lib
    install -m 0644 ${PSEUDO_TREE}/usr/lib/x86_64-linux-gnu/pseudo/libpseudo.so ${D}${prefix}/lib/x86_64-linux-gnu/pseudo
    install -m 0644 ${COREBASE}/meta/recipes-devtools/pseudo/files/fallback-passwd ${D}${sysconfdir}/passwd
    install -m 0644 ${COREBASE}/meta/recipes-devtools/pseudo/files/fallback-group ${D}${sysconfdir}/group
}
SYSROOT_DIRS_NATIVE += "${sysconfdir} ${prefix}/var"
INHIBIT_DEFAULT_DEPS = "1"
INSANE_SKIP = "already-stripped"
