#!/bin/sh
# Installs what the tests and the demo need: Debian packages that are missing, and .venv.
# Nothing is installed globally by pip; a second run with nothing to do takes no time.
set -eu
cd "$(dirname "$0")/.."

# Why each is here: mmdebstrap builds the device's tree and the demo's packages; venv the tests'
# interpreter; docker-registry is a server to pull from; strace lists system calls; e2fsprogs,
# iproute2, mount, util-linux make the testbed's file system, network and namespaces; git names the
# files that the style tests read; gcc compiles what kills at library calls; qemu-utils and fdisk
# make the device's disk; cpio reads its initramfs as the kernel does. (QEMU itself is in a tree of
# its own, qemu/emulator.py.)
PACKAGES="mmdebstrap python3-venv docker-registry strace e2fsprogs iproute2 mount util-linux git
gcc libc6-dev qemu-utils fdisk cpio ca-certificates debian-archive-keyring"
# For make long: what runs another architecture's programs here.
[ "${1:-}" != long ] || PACKAGES="$PACKAGES qemu-user-static arch-test"
STAMP=.venv/.stamp

fail() {
    echo "$1" >&2
    exit 1
}

[ -e /etc/debian_version ] && command -v apt-get >/dev/null ||
    fail "This needs Debian 12 or 13 (apt-get was not found); run it in such a machine or container."
[ "$(id -u)" = 0 ] ||
    fail "This needs root for namespaces, mounts and apt-get: run 'sudo make ${1:-test}'."

missing=
for package in $PACKAGES; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
        missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "installing:$missing" >&2
    export DEBIAN_FRONTEND=noninteractive
    # Lists may be absent or too old to fetch from; try once with what is there, then anew.
    ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt-get -qq -o Dpkg::Use-Pty=0 update >&2
    # shellcheck disable=SC2086
    apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends $missing >&2 || {
        apt-get -qq -o Dpkg::Use-Pty=0 update >&2
        apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends $missing >&2
    }
fi

wanted=$(sha256sum agent/pyproject.toml tests/prepare.sh)
if [ ! -e $STAMP ] || [ "$(cat $STAMP)" != "$wanted" ]; then
    echo "making .venv" >&2
    rm -rf .venv
    # Debian's own interpreter, whatever else is first in PATH.
    /usr/bin/python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -e 'agent[dev]'
    echo "$wanted" >$STAMP
fi
