#!/bin/sh
# yocto.sh LAYERS [RELEASE]: build composeapps-image with real bitbake and openembedded-core.
#
# LAYERS holds checkouts of bitbake and openembedded-core, as kas makes them (kas checkout); with
# meta-openembedded and meta-virtualization there too, every dependency is resolved with the real
# layers. Nothing is compiled: tests/yocto/meta-debian-base stands in. Runs as root, builds as the
# user "builder"; all that is made goes to BUILD (default: /var/tmp/composeapps-yocto). What it leaves
# in BUILD/device-SERIES is what IMAGE=yocto takes: the tests of tests/qemu, asked of this image.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
layers=$(cd "${1:?usage: $0 LAYERS}" && pwd)
build=${BUILD:-/var/tmp/composeapps-yocto}
python=$root/.venv/bin/python
core=$layers/openembedded-core
started=$(date +%s)

say() { echo "yocto: $(($(date +%s) - started)) s: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

[ -d "$layers/bitbake" ] && [ -d "$core" ] ||
    fail "$layers has no bitbake and openembedded-core: run kas checkout kas/qemux86-64.yml, or name LAYERS=dir"
[ "$(id -u)" = 0 ] || fail "this needs root to make a Debian tree: run sudo make yocto"
series=$(sed -n 's/^LAYERSERIES_CORENAMES = "\([a-z]*\).*/\1/p' "$core/meta/conf/layer.conf")
say "openembedded-core is $series"

packages="mmdebstrap apt-utils attr bmap-tools chrpath cpio diffstat dosfstools dpkg-dev e2fsprogs
fakeroot fdisk file gawk gdisk kmod libcap2-bin locales lz4 mtools ovmf parted pigz rpcsvc-proto
squashfs-tools systemd unzip xz-utils zstd python3-venv gcc g++ make"
missing=
for package in $packages; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
        missing="$missing $package"
done
# shellcheck disable=SC2086
[ -z "$missing" ] || DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >&2
# bitbake wants it.
locale -a | grep -qx en_US.utf8 || localedef -i en_US -f UTF-8 en_US.UTF-8
id builder >/dev/null 2>&1 || useradd -m -s /bin/bash builder
mkdir -p "$build/downloads" "$build/in"
chmod 755 "$build"

# A Debian tree with a kernel, once; pseudo of the newest Debian; what builds wheels.
if [ ! -e "$build/in/tree.tar" ]; then
    say "making the Debian tree"
    include="systemd systemd-sysv udev dbus docker.io containerd runc docker-compose iptables erofs-utils
    e2fsprogs fdisk mount util-linux python3 python3-docker python3-requests python3-cryptography
    python3-yaml python3-zstandard python3-urllib3 ca-certificates iproute2 kmod procps passwd login
    linux-image-cloud-amd64 initramfs-tools busybox-static netbase systemd-boot-efi"
    # shellcheck disable=SC2016
    mmdebstrap --quiet --format=tar --variant=minbase --include="$(echo $include | tr ' ' ,)" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --customize-hook='printf "%s\n" erofs squashfs overlay virtio_blk virtio_pci virtio_net ext4 loop > "$1/etc/initramfs-tools/modules"; sed -i s/^MODULES=.*/MODULES=list/ "$1/etc/initramfs-tools/initramfs.conf"; chroot "$1" update-initramfs -u -k all' \
        trixie "$build/in/tree.tar.tmp" >&2
    mv "$build/in/tree.tar.tmp" "$build/in/tree.tar"
fi
if [ ! -e "$build/in/pseudo/usr/bin/pseudo" ]; then
    rm -rf "$build/in/pseudo"
    mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
        --include=pseudo sid "$build/in/pseudo" >&2
fi
if [ ! -e "$build/in/native/ready" ]; then
    /usr/bin/python3 -m venv "$build/in/native"
    "$build/in/native/bin/pip" install --quiet --disable-pip-version-check build cryptography \
        'flit_core<4' hatchling installer pyyaml requests urllib3 zstandard
    # Sources that the Python index no longer has where recipes look for them.
    "$build/in/native/bin/pip" download --quiet --no-deps --no-binary tuf,securesystemslib -d "$build/downloads" \
        tuf==7.0.1 securesystemslib==1.3.0
    for file in "$build"/downloads/*.tar.gz; do touch "$file.done"; done
    touch "$build/in/native/ready"
fi
# The world that the tests' devices follow; a new one every day, and for every change of the agent.
world=$(PYTHONPATH=$root/agent:$root/tests:$root/qemu "$python" "$root/tests/yocto/publish_site.py" "$build/in/world")
identity=$(sha256sum "$build/in/tree.tar" | cut -c1-16)
# The build's user need not be able to look into the work tree.
rm -rf "$build/source"
mkdir "$build/source"
cp -r "$root/agent" "$root/meta-composeapps" "$root/LICENSE" "$root/tests" "$root/qemu" "$build/source"

configure() { # configure DIRECTORY LAYER…
    directory=$1
    shift
    mkdir -p "$directory/conf"
    {
        echo 'BBPATH = "${TOPDIR}"'
        echo 'BBFILES ?= ""'
        echo "BBLAYERS = \"$core/meta $*\""
    } >"$directory/conf/bblayers.conf"
    cat >"$directory/conf/local.conf" <<EOF
MACHINE = "qemux86-64"
DL_DIR = "$build/downloads"
CONNECTIVITY_CHECK_URIS = ""
SANITY_TESTED_DISTROS = ""
COMPOSEAPPS_ROOT = "$build/in/world/world/site/metadata/1.root.json"
COMPOSEAPPS_URL = "$build/in/world/world/site"
COMPOSEAPPS_URL:pn-composeapps-conf = "http://10.0.2.2:8000"
COMPOSEAPPS_PRELOAD = "$world"
EOF
}

bitbake() { # bitbake DIRECTORY COMMAND…: as the build's user, with a clean environment
    directory=$1
    shift
    chown -R builder "$build/downloads" "$directory"
    chmod -R a+rX "$build/in" "$build/source"
    # shellcheck disable=SC2016
    runuser -u builder -- env -i HOME=/home/builder LANG=C.UTF-8 LC_ALL=C.UTF-8 BUILDDIR="$directory" \
        PATH="$layers/bitbake/bin:$core/scripts:/usr/sbin:/usr/bin:/sbin:/bin" \
        sh -c 'cd "$BUILDDIR" && exec "$@"' sh "$@"
}

# (a) the image, with the stand-in
types=erofs-lz4
if [ -e "$core/scripts/wic" ]; then
    types="$types wic"
else
    say "not tried: a wic image, because wic has a repository of its own since wrynose"
fi
image=$build/image-$series
stand_ins="$build/source/tests/yocto/stand-ins/meta-python $build/source/tests/yocto/stand-ins/meta-virtualization"
# shellcheck disable=SC2086
configure "$image" "$build/source/tests/yocto/meta-debian-base" $stand_ins "$build/source/meta-composeapps"
cat >>"$image/conf/local.conf" <<EOF
DISTRO = "debian-base"
DEBIAN_TREE = "$build/in/tree.tar"
DEBIAN_TREE_ID = "$identity"
PSEUDO_TREE = "$build/in/pseudo"
NATIVE_PYTHON = "$build/in/native"
COMPOSEAPPS_IMAGE_FSTYPES = "$types"
INHERIT += "create-spdx"
EOF
say "building composeapps-image"
bitbake "$image" bitbake composeapps-image
deploy=$image/tmp/deploy/images/qemux86-64
ls -l "$deploy" >&2
device=$build/device-$series
rm -rf "$device"
mkdir -p "$device/boot" "$device/root"
cp -r "$build/in/world/." "$device"
cp "$deploy/composeapps-image-qemux86-64.rootfs.erofs-lz4" "$device/root.erofs"
cp "$deploy"/composeapps-image-qemux86-64.rootfs.spdx* "$device"
cp "$deploy/composeapps-image-qemux86-64.rootfs.manifest" "$device/manifest"
# openembedded-core's test runner, for the layer's testimage case.
cp -r "$core/meta/lib" "$device/lib"
[ ! -e "$core/scripts/wic" ] ||
    cp --sparse=always "$deploy/composeapps-image-qemux86-64.rootfs.wic" "$device/disk.wic"
cp "$deploy/bzImage" "$device/boot/vmlinuz"
tar -xOf "$build/in/tree.tar" ./usr/bin/busybox >"$device/boot/busybox"
tar -xf "$deploy/modules-qemux86-64.tgz" -C "$device/root"
say "comparing it with the image of qemu/, and its SBOM with its apps"
(cd "$root" && YOCTO_DEVICE="$device" .venv/bin/pytest -q tests/qemu/test_two_images.py tests/yocto/test_sbom.py)
say "IMAGE=yocto YOCTO_DEVICE=$device make test TESTS=tests/qemu/test_boot.py boots it"

# (b) what the layer promises, and every dependency with the real layers
say "yocto-check-layer"
check=$build/check-$series
configure "$check" "$build/source/tests/yocto/meta-debian-base"
# As on a machine that has just cloned the layer: without apps.
sed -i '/^COMPOSEAPPS_PRELOAD/d' "$check/conf/local.conf"
sed -n '/^DISTRO\|^DEBIAN\|^PSEUDO\|^NATIVE/p' "$image/conf/local.conf" >>"$check/conf/local.conf"
# shellcheck disable=SC2086
bitbake "$check" yocto-check-layer --no-auto-dependency "$build/source/meta-composeapps" --dependency $stand_ins
if [ -d "$layers/meta-openembedded" ] && [ -d "$layers/meta-virtualization" ]; then
    say "resolving all dependencies with the real layers"
    real=$build/real-$series
    others=
    for name in meta-oe meta-python meta-networking meta-filesystems; do
        others="$others $layers/meta-openembedded/$name"
    done
    configure "$real" $others "$layers/meta-virtualization" "$build/source/meta-composeapps"
    cat >>"$real/conf/local.conf" <<'EOF'
INIT_MANAGER = "systemd"
DISTRO_FEATURES:append = " virtualization composeapps ptest"
EFI_PROVIDER = "systemd-boot"
EOF
    # Every recipe is parsed first.
    bitbake "$real" bitbake -g composeapps-image | tee "$real/parse.log"
    grep -q ' 0 errors' "$real/parse.log" || fail "recipes do not parse"
    grep -q '^NOTE: PN build list saved' "$real/parse.log" || fail "a dependency is missing"
    ! grep -q '^WARNING' "$real/parse.log" || fail "parsing warned"
    say "$(wc -l <"$real/pn-buildlist") recipes are needed"
    bitbake "$real" bitbake -e composeapps-image >"$real/environment"
    grep -q '^COMPOSEAPPS_PRELOAD="' "$real/environment" || fail "bitbake -e does not know the apps"
else
    say "not tried: the real dependencies, because $layers has no meta-openembedded and meta-virtualization"
fi
say "done"
