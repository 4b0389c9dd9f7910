SUMMARY = "The Update Framework: secure updates that survive lost keys"
DESCRIPTION = "Reference implementation of The Update Framework (TUF): a client library, and \
metadata for repositories."
HOMEPAGE = "https://theupdateframework.io/"
LICENSE = "Apache-2.0 | MIT"
LIC_FILES_CHKSUM = "\
    file://LICENSE;md5=8cc789b082b3d97e1ccc5261f8594d3f \
    file://LICENSE-MIT;md5=0905c600830081fce64622608c4a2628 \
"

SRC_URI[sha256sum] = "5ada1db78da3518fa851e28588f4b2249b8662a28ae528f54afa2a1de541fb31"

inherit pypi python_hatchling
require python3-hatchling-pin.inc

RDEPENDS:${PN} = "\
    python3-compression \
    python3-core \
    python3-crypt \
    python3-datetime \
    python3-io \
    python3-json \
    python3-logging \
    python3-netclient \
    python3-securesystemslib \
    python3-shell \
    python3-urllib3 \
"

BBCLASSEXTEND = "native nativesdk"
