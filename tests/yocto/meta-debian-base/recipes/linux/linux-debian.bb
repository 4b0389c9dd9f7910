SUMMARY = "Debian's kernel as virtual/kernel"
LICENSE = "CLOSED"
PROVIDES = "virtual/kernel"
DEBIAN_TREE ?= ""
DEBIAN_TREE_ID ?= ""
PACKAGE_ARCH = "${MACHINE_ARCH}"

inherit deploy

do_install[vardeps] = "DEBIAN_TREE_ID"
do_install[vardepsexclude] = "DEBIAN_TREE"
do_install () {
    tar -xf ${DEBIAN_TREE} -C ${D} --no-same-owner --wildcards './usr/lib/modules/*' './boot/*'
    rm -f ${D}/boot/config-* ${D}/boot/System.map-* ${D}/boot/*.old
    # As kernels of openembedded-core have them; for the initramfs of the tests, too.
    find ${D}/usr/lib/modules -name '*.ko.xz' -exec xz --decompress {} +
    depmod --basedir ${D}/usr $(ls ${D}/usr/lib/modules)
}

do_package[vardeps] += "DEBIAN_TREE_ID"
PACKAGESPLITFUNCS:append = " kernel_version_of_debian"
python kernel_version_of_debian () {
    import glob
    # What kernel.bbclass leaves for depmod in do_rootfs.
    (path,) = glob.glob(d.expand("${PKGD}/usr/lib/modules/*"))
    place = d.expand("${PKGDESTWORK}/${KERNEL_PACKAGE_NAME}-depmod")
    bb.utils.mkdirhier(place)
    with open(place + "/" + d.getVar("KERNEL_PACKAGE_NAME") + "-abiversion", "w") as file:
        file.write(os.path.basename(path))
}
KERNEL_PACKAGE_NAME = "kernel"

do_deploy () {
    install -m 0644 ${D}/boot/vmlinuz-* ${DEPLOYDIR}/bzImage
    install -m 0644 ${D}/boot/initrd.img-* ${DEPLOYDIR}/initrd.img
    tar -czf ${DEPLOYDIR}/modules-${MACHINE}.tgz -C ${D} usr/lib/modules
}
addtask deploy after do_install before do_build

do_package_qa[noexec] = "1"
do_populate_sysroot[noexec] = "1"
PACKAGES = "kernel-debian"
FILES:kernel-debian = "/usr/lib/modules"
RPROVIDES:kernel-debian = "kernel kernel-modules kernel-module-erofs kernel-module-loop kernel-module-overlay"
# /boot goes to where images are deployed only.
INSANE_SKIP:${PN} = "installed-vs-shipped"
