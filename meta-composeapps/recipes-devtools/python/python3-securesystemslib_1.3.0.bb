SUMMARY = "Signing and verifying for secure systems"
DESCRIPTION = "Cryptographic and general-purpose routines of the Secure Systems Lab's projects: \
keys, signatures and signed envelopes. Later versions need a newer python3-cryptography than \
scarthgap has."
HOMEPAGE = "https://github.com/secure-systems-lab/securesystemslib"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=e9703d169911cdb29305f88411c78717"

SRC_URI[sha256sum] = "5b53e5989289d97fa42ed7fde1b4bad80985f15dba8c774c043b395a90c908e5"

inherit pypi python_hatchling
require python3-hatchling-pin.inc

RDEPENDS:${PN} = "\
    python3-core \
    python3-crypt \
    python3-cryptography \
    python3-datetime \
    python3-io \
    python3-json \
    python3-logging \
    python3-math \
    python3-netclient \
    python3-shell \
"

BBCLASSEXTEND = "native nativesdk"
