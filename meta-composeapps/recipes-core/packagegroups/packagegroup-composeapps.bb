SUMMARY = "All that a device with Compose apps runs"
DESCRIPTION = "The agent with Docker Engine and Compose, and the data partition on /var."
HOMEPAGE = "https://composeapps.example/"
LICENSE = "MIT"

inherit packagegroup features_check

REQUIRED_DISTRO_FEATURES = "composeapps systemd"

RDEPENDS:${PN} = "\
    ca-certificates \
    composeapps \
    composeapps-data \
"
