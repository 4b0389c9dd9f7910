"""fs-verity on a real kernel: a bit that the medium changed is a read error and never an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import vmlaw
from vmdevice import Device

IS_ENABLED = """\
from pathlib import Path
from composeapps import verity
for path in sorted(Path("/var/lib/composeapps/store/layers").iterdir()):
    print(path, verity.is_enabled(path))
"""
#: Flips a bit of a file's second block on the partition below it (FIBMAP, <linux/fs.h>), and reads
#: the file from the medium.
FLIP = """\
import fcntl, mmap, os, struct, sys
f = os.open(sys.argv[1], os.O_RDONLY)
block = struct.unpack("i", fcntl.ioctl(f, 1, struct.pack("i", 1)))[0]
disk = os.open("/dev/disk/by-partlabel/data", os.O_RDWR | os.O_DIRECT)
page = mmap.mmap(-1, 4096)
os.preadv(disk, [page], block * 4096)
page[100] ^= 1
os.pwritev(disk, [page], block * 4096)
with open("/proc/sys/vm/drop_caches", "w") as drop:
    drop.write("3")
try:
    os.pread(f, 4096, 4096)
    print("read")
except OSError as error:
    print(error.strerror)
"""


def test_a_changed_bit_is_a_read_error_and_is_mended(make_device: Callable[..., Device]) -> None:
    device = make_device()
    device.boot()
    assert device.judge(["v1"]).broken == []
    machine = device.machine

    def verb(*words: str, code: int = 0) -> Any:
        done = device.command("--json", *words)
        assert done is not None and done.code == code, done
        return json.loads(done.out)

    version = device.release(2)
    machine.run("systemctl", "reload", "composeapps.service")
    assert machine.run(vmlaw.ASK, "state", str(version), *vmlaw.ENDED, timeout=900).code == 0
    (layer,) = machine.run("python3", "-c", IS_ENABLED).out.splitlines()
    path, enabled = layer.split()
    assert enabled == "True"
    assert verb("status")["no_fs_verity"] is None
    assert machine.run("python3", "-c", FLIP, path).out.strip() == "Input/output error"
    assert path in str(verb("verify", "--deep", code=6))
    device.command("reset")
    verb("update")
    assert verb("verify", "--deep") == []
    assert verb("status")["current"]["version"] == version
