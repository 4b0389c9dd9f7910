SUMMARY = "Python bindings of the Zstandard compression library"
DESCRIPTION = "Compresses and decompresses; composeapps reads image layers that are packed with zstd."
HOMEPAGE = "https://github.com/indygreg/python-zstandard"
LICENSE = "BSD-3-Clause"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3ae87c50fd64b6f0942823686871e758"

SRC_URI[sha256sum] = "b2d8c62d08e7255f68f7a740bae85b3c9b8e5466baa9cbf7f57f1cde0ac6bc09"

inherit pypi setuptools3

RDEPENDS:${PN} = "python3-core python3-io"

BBCLASSEXTEND = "native"
