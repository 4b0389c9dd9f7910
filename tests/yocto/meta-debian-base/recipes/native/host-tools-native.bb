SUMMARY = "Names of tools that the host has and that some setscene task mentions"
LICENSE = "CLOSED"
PROVIDES = "shadow-native systemd-native wic-native"
inherit native
do_install () {
    install -d ${D}${bindir}
    # systemd.bbclass wants a systemctl that works on a root file system; Debian's does.
    printf '#!/bin/sh\nexec /usr/bin/systemctl "$@"\n' > ${D}${bindir}/systemctl
    chmod 0755 ${D}${bindir}/systemctl
}
