SUMMARY = "The Debian tree's mkfs.erofs, with the libraries it wants; the host's may be too old to seal"
LICENSE = "CLOSED"
inherit native

DEBIAN_TREE ?= ""
DEBIAN_TREE_ID ?= ""
do_install[vardeps] = "DEBIAN_TREE_ID"
do_install[vardepsexclude] = "DEBIAN_TREE"
do_install () {
    place=${D}${libdir}/erofs-of-tree
    install -d $place ${D}${bindir}
    tar -xf ${DEBIAN_TREE} -C $place --strip-components=4 --wildcards \
        './usr/lib/x86_64-linux-gnu/ld-linux-*' './usr/lib/x86_64-linux-gnu/lib*.so.*'
    tar -xf ${DEBIAN_TREE} -C $place --strip-components=3 ./usr/bin/mkfs.erofs
    printf '#!/bin/sh\nplace=$(dirname "$(readlink -f "$0")")/../lib/erofs-of-tree\nexec "$place"/ld-linux-x86-64.so.2 --library-path "$place${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$place"/mkfs.erofs "$@"\n' > ${D}${bindir}/mkfs.erofs
    chmod 0755 ${D}${bindir}/mkfs.erofs
}
