#!/bin/bash
# First process of the testbed's namespaces: makes the device's file tree its root.
# Arguments: tree, work directory. Both are absolute.
set -eu
tree=$1 work=$2
mount --make-rprivate /
root=$work/root
mkdir -p "$root"
mount --bind "$tree" "$root"
mount -o remount,bind,ro "$root"
cd "$root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount -o loop "$work/data.img" mnt/data
for name in docker containerd composeapps; do
    mkdir -p "mnt/data/$name"
    mount --bind "mnt/data/$name" "var/lib/$name"
done
mount --bind "$work/etc/docker" etc/docker
mount --bind "$work/etc/composeapps" etc/composeapps
mount --bind "$work/share" usr/share/composeapps
site=$(echo usr/local/lib/python3.*/dist-packages/composeapps)
mount --bind "$work/package" "$site"
mkdir -p run/work
mount --bind "$work/work" run/work
install -m 755 "$work/testbed-engine" run/testbed-engine
# Each start is a boot of its own.
cat /proc/sys/kernel/random/uuid >run/boot_id
mount --bind run/boot_id proc/sys/kernel/random/boot_id
ip link set lo up
pivot_root . mnt/old
umount -l /mnt/old
# Reaps whatever ends in here; the namespaces live as long as it does.
exec /usr/bin/python3 -c '
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while True: signal.pause()'
