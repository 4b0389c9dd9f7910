SUMMARY = "Python library for the Docker Engine API"
DESCRIPTION = "Version 7.0.0, which meta-virtualization has for scarthgap, cannot talk to the \
engine's socket with the python3-requests 2.32 of openembedded-core."
HOMEPAGE = "https://github.com/docker/docker-py"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=34f3846f940453127309b920eeb89660"

SRC_URI[sha256sum] = "ad8c70e6e3f8926cb8a92619b832b4ea5299e2831c14284663184e200546fa6c"

inherit pypi python_hatchling

DEPENDS += "python3-hatch-vcs-native"

RDEPENDS:${PN} = "\
    python3-json \
    python3-netclient \
    python3-requests \
    python3-urllib3 \
"
