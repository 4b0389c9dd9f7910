"""Which extended attributes of a tar entry reach the file, as containerd and Linux decide it.

containerd sets every ``SCHILY.xattr.`` record with ``lsetxattr``, except ``trusted.*``; it passes
over "not supported", and over "not permitted" for ``user.*`` on what is no file or directory
(``createTarFile`` and ``setxattr`` in ``pkg/archive``). What Linux answers is in its ``fs/xattr.c``
and ``security/commoncap.c``.
"""

from __future__ import annotations

import stat

from composeapps.rootpath import PathError, text

PAX_PREFIX = b"SCHILY.xattr."
CAPABILITY = b"security.capability"
NAME_LIMIT = 255
#: Bytes; all attributes of one entry. An ext4 with 4 KiB blocks keeps no more than about 4100.
TOTAL_LIMIT = 16 * 1024
#: struct vfs_cap_data: size by revision; the lowest bit of its first word is "effective".
CAPABILITY_SIZES = {0x02000000: 20, 0x03000000: 24}


def is_kept(name: bytes, value: bytes, mode: int) -> bool:
    """Return True where the attribute is set on a file of this st_mode, False where it is ignored.

    Raises:
        PathError: containerd fails on it, or a sealed layer cannot hold what it would become.
    """
    if name.startswith(b"trusted."):
        return False
    if not 0 < len(name) <= NAME_LIMIT or len(value) > 65536:
        raise PathError(f"extended attribute {text(name)} is too long or has no name")
    space, _, rest = name.partition(b".")
    if space == b"user" and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return False
    if space in (b"user", b"security") and name != space:
        if not rest:
            raise PathError(f"extended attribute {text(name)} has no name")
        if name == CAPABILITY:
            _check_capability(value)
        return True
    if name in (b"system.posix_acl_access", b"system.posix_acl_default"):
        if stat.S_ISLNK(mode):
            return False
        raise PathError("it has an access control list, which cannot be sealed exactly")
    if space == b"gnu" and rest:
        raise PathError(f"extended attribute {text(name)} exists on some file systems only")
    return False


def _check_capability(value: bytes) -> None:
    """Raise PathError where the kernel takes a value for no file capability."""
    revision = int.from_bytes(value[:4], "little") & ~1
    if CAPABILITY_SIZES.get(revision) != len(value):
        raise PathError("its file capability is not valid")
