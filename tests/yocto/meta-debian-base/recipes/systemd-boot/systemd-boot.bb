SUMMARY = "The Debian tree's systemd-boot, for wic images"
LICENSE = "CLOSED"
PACKAGE_ARCH = "${MACHINE_ARCH}"

inherit deploy

DEBIAN_TREE ?= ""
DEBIAN_TREE_ID ?= ""
do_deploy[vardeps] = "DEBIAN_TREE_ID"
do_deploy[vardepsexclude] = "DEBIAN_TREE"
do_deploy () {
    tar -xOf ${DEBIAN_TREE} ./usr/lib/systemd/boot/efi/systemd-bootx64.efi > ${DEPLOYDIR}/systemd-bootx64.efi
}
addtask deploy after do_install before do_build

PACKAGES = ""
