SUMMARY = "Tools for EROFS file systems"
DESCRIPTION = "Sealed layers need 1.8.5; scarthgap's 1.7 loses times and cuts names."
HOMEPAGE = "https://erofs.docs.kernel.org/"
SECTION = "base"
LICENSE = "GPL-2.0-or-later"
LIC_FILES_CHKSUM = "file://COPYING;md5=73001d804ea1e3d84365f652242cca20"

DEPENDS = "lz4 util-linux-libuuid zlib"

SRC_URI = "git://git.kernel.org/pub/scm/linux/kernel/git/xiang/erofs-utils.git;branch=master;protocol=https"
SRCREV = "51b5939b5f783221310d25146e6a2019ba8129b6"
S = "${WORKDIR}/git"

inherit autotools pkgconfig

EXTRA_OECONF = "--disable-fuse --enable-lz4 --with-zlib"

BBCLASSEXTEND = "native nativesdk"
