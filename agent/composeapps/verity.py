"""fs-verity: the kernel checks a file at every read, so that a changed bit is an error there.

Source: Linux, Documentation/filesystems/fsverity.rst. Enabling is atomic, over a power cut too. It
needs a file system that was made for it (ext4: ``mkfs.ext4 -O verity``) and CONFIG_FS_VERITY.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

# <linux/fsverity.h>; the same on 32 and 64 bits.
_ENABLE, _MEASURE = 0x40806685, 0xC0046686
_SHA256, _BLOCK = 1, 4096
#: What a kernel or file system without it answers.
_LACKING = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EROFS)

#: What stands in its way this time: no room for the hashes, a writer, no right to do it.
_PREVENTED = (errno.ENOSPC, errno.EDQUOT, errno.ETXTBSY, errno.EPERM, errno.EACCES)


def enable(path: Path) -> str:
    """Let the kernel check a finished file that nobody has open for writing.

    Returns:
        why it cannot, or an empty string; a file that has it already is left as it is.

    Raises:
        OSError: the medium fails.
    """
    argument = struct.pack("=IIIIQIIQ88x", 1, _SHA256, _BLOCK, 0, 0, 0, 0, 0)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _ENABLE, argument)
        os.fsync(descriptor)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return ""
        if error.errno in (*_LACKING, *_PREVENTED):
            return f"fs-verity cannot be used here: {error.strerror}"
        raise
    finally:
        os.close(descriptor)
    return ""


def is_enabled(path: Path) -> bool:
    """Say whether the kernel checks a file; False where that cannot be found out."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.ioctl(descriptor, _MEASURE, bytearray(struct.pack("=HH64x", 0, 64)))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
