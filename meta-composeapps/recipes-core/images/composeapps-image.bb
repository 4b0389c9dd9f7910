SUMMARY = "Read-only root file system with a Docker Engine and the apps inside"
DESCRIPTION = "Two root slots and a data partition. The apps that COMPOSEAPPS_PRELOAD names start \
at the first boot, with no network."
HOMEPAGE = "https://composeapps.example/"
LICENSE = "MIT"

inherit core-image features_check composeapps_preload

REQUIRED_DISTRO_FEATURES = "composeapps systemd"

IMAGE_FEATURES += "read-only-rootfs"
IMAGE_INSTALL = "packagegroup-core-boot packagegroup-composeapps ${CORE_IMAGE_EXTRA_INSTALL}"
IMAGE_LINGUAS = ""

COMPOSEAPPS_SLOT_SIZE ?= "2G"
COMPOSEAPPS_SLOT_SIZE[doc] = "Size of each of the two root partitions."
# What a machine's configuration adds, such as tar archives, is for other images.
COMPOSEAPPS_IMAGE_FSTYPES ?= "wic.zst wic.bmap"
COMPOSEAPPS_IMAGE_FSTYPES[doc] = "Types of the image."
IMAGE_FSTYPES = "${COMPOSEAPPS_IMAGE_FSTYPES}"

# Machines bring a layout of their own, which has neither slots nor data.
COMPOSEAPPS_WKS ?= "${COMPOSEAPPS_WICDIR}/composeapps.wks.in"
COMPOSEAPPS_WKS[doc] = "The layout: one of the layer's files/wic, or yours."
WKS_FILE = "${COMPOSEAPPS_WKS}"
# Wic's plugins were renamed after scarthgap.
COMPOSEAPPS_WIC_BOOT ?= "${@'bootimg-' if 'scarthgap' in d.getVar('LAYERSERIES_CORENAMES').split() else 'bootimg_'}"
COMPOSEAPPS_WIC_EFI ?= "loader=${EFI_PROVIDER}"
COMPOSEAPPS_WIC_EFI[doc] = "Parameters of wic's EFI plugin; add ,initrd=NAME for an initramfs that is not in the kernel."
WICVARS:append = " COMPOSEAPPS_SLOT_SIZE COMPOSEAPPS_WIC_BOOT"
do_image_wic[depends] += "e2fsprogs-native:do_populate_sysroot erofs-utils-native:do_populate_sysroot"

TEST_SUITES:append = " composeapps"
