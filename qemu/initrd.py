"""A small initramfs: two modules, one mount, and on with it; written without root or tools.

What a test needs in a guest travels here too, and only here: the root image that is tested is the
one that is shipped, bit for bit. It lands in ``/run`` of the booted system, which is a tmpfs.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst ("newc").
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

#: Needed before the root is there; everything else is loaded from the root.
MODULES = ("virtio_blk", "erofs")
DIRECTORIES = ("dev", "proc", "sys", "run", "root", "modules", "bin", "run-files")
INIT = """\
#!/bin/busybox sh
# Mounts the root slot that composeapps.slot= names (a, b) read-only and starts systemd in it.
export PATH=/bin
for name in mount insmod sleep cp switch_root echo poweroff; do
    busybox ln -s busybox /bin/$name
done
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
slot=1 probe=
for word in $(busybox cat /proc/cmdline); do
    case $word in
    composeapps.slot=b) slot=2 ;;
    composeapps.probe) probe=1 ;;
    esac
done
if [ "$probe" ]; then
    echo "kernel booted" >/dev/console
    poweroff -f
fi
for file in /modules/*; do insmod "$file"; done
tries=0
until [ -b /dev/vda$slot ] || [ $tries = 50 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
mount -t erofs -o ro /dev/vda$slot /root || {
    echo "initramfs: root slot $slot cannot be mounted" >/dev/console
    sleep 1
    poweroff -f
}
mount -t tmpfs -o mode=755,size=20% tmpfs /run
cp -a /run-files/. /run/
for name in dev proc sys run; do mount -o move /$name /root/$name; done
exec switch_root /root /usr/lib/systemd/systemd
"""


def build(boot: Path, root: Path, run_files: Mapping[str, bytes | str] | None = None) -> bytes:
    """Return the initramfs.

    Args:
        boot: holds a static ``busybox``.
        root: tree with the kernel's modules, not compressed.
        run_files: contents by path below ``/run``; those whose content begins with ``#!`` are
            executable, text that begins with ``->`` is a symbolic link to what follows.
    """
    entries: dict[str, tuple[int, bytes]] = dict.fromkeys(DIRECTORIES, (stat.S_IFDIR | 493, b""))
    entries["init"] = (stat.S_IFREG | 0o755, INIT.encode())
    entries["bin/busybox"] = (stat.S_IFREG | 0o755, (boot / "busybox").read_bytes())
    for number, path in enumerate(modules(root, MODULES)):
        entries[f"modules/{number:02}-{path.name}"] = (stat.S_IFREG | 0o644, path.read_bytes())
    for name, content in (run_files or {}).items():
        for parent in reversed(Path("run-files", name).parents[:-1]):
            entries.setdefault(str(parent), (stat.S_IFDIR | 0o755, b""))
        entries[f"run-files/{name}"] = _run_file(content)
    return b"".join(
        _entry(name, *entry) for name, entry in [*entries.items(), ("TRAILER!!!", (0, b""))]
    )


def _run_file(content: bytes | str) -> tuple[int, bytes]:
    data = content.encode() if isinstance(content, str) else content
    if data.startswith(b"->"):
        return stat.S_IFLNK | 0o777, data[2:].strip()
    return stat.S_IFREG | (0o755 if data.startswith(b"#!") else 0o644), data


def modules(root: Path, names: Iterable[str]) -> list[Path]:
    """Return the files of modules and of what they need, in the order in which they load."""
    directory = next((root / "usr/lib/modules").iterdir())
    needs = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    order: list[str] = []
    for name in names:
        path = next(path for path in needs if Path(path).stem == name)
        # modules.dep lists, right to left, what has to be loaded first.
        order += [item for item in [*reversed(needs[path]), path] if item not in order]
    return [directory / path for path in order]


def _entry(name: str, mode: int, data: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (0, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields)
    return _padded(header + encoded) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
