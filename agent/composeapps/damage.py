"""Which errors of the engine mean that its store is damaged, and how often it is reset for them.

An engine whose store is damaged often starts and answers, and fails at what it is asked. Resetting
it helps and restarting does not. The texts are from public reports after power cuts and from bad
media; an error of an app's own (a program that is missing, say) is none of them.
"""

from __future__ import annotations

import re

from composeapps.device import Device

#: What an error says, and a report of it.
_SIGNS = (
    # A snapshot that the database knows has no directory.
    (r"/snapshots/\d+/fs: no such file or directory", "containerd#3369"),
    (r"failed to create prepare snapshot dir", "containerd#7834"),
    (r"failed to get active mount: .*snapshot does not exist", "containerd#751"),
    # A blob that the database knows has no file, or is empty.
    (r"content digest sha256:[0-9a-f]{64}: not found", "containerd#1674, containerd#10457"),
    # Classic store: the same of a layer. It can be met where an older image had it.
    (r"layer does not exist", "moby#21215, moby#35524"),
    (r"(open|stat|lstat) /\S+/overlay2/\S+: no such file or directory", "docker/for-linux#478"),
    # bbolt's databases: containerd's meta.db and metadata.db, Docker's local-kv.db.
    (r"invalid page type", "moby#37238, containerd#3347"),
    (r"invalid freelist page", "moby#42099"),
    (r"page expected to be: \d+, but self identifies as", "bbolt#705, containerd#9929"),
    (r"failed to get all reachable pages", "bbolt#883"),
    (r"slice bounds out of range", "containerd#5797"),
    (r"networks have same bridge name", "moby#49291"),
    # The file system below it.
    (r"failed to remove root filesystem: .*(input/output error|needs cleaning)", "moby#39189"),
)
#: The same where they name a path of the engine's; an app's own file may be as bad.
_MEDIUM = r"{root}/\S*: (input/output error|structure needs cleaning|bad message)"
_MEDIUM_SOURCE = "docker/for-mac#35"

#: Resets in one boot, none of which helped; more do not either.
RESETS = 3
_COUNT = "engine-resets-in-boot"


def sign(text: str, roots: tuple[str, ...]) -> str:
    """Return what in an error's text means damage and a report of it, or an empty string; pure."""
    medium = [(_MEDIUM.format(root=re.escape(root)), _MEDIUM_SOURCE) for root in roots]
    for pattern, source in (*_SIGNS, *medium):
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            return f"{found[0]} (as in {source})"
    return ""


def reason(device: Device, error: Exception) -> str:
    """Return why an error lets the engine be reset, or an empty string where it does not."""
    engine = device.settings.engine
    found = sign(str(error), (str(engine.docker_root), str(engine.containerd_root)))
    return found if may_reset(device) else ""


def may_reset(device: Device) -> bool:
    """Say whether there is a reset left in this boot."""
    return _resets(device) < RESETS


def note_reset(device: Device) -> None:
    """Count a reset, before it is done."""
    device.state.put(_COUNT, f"{device.boot_id} {_resets(device) + 1}")


def forget_resets(device: Device) -> None:
    """Begin to count anew: a reset helped, or a person asks."""
    if _resets(device):
        device.state.put(_COUNT, "")


def _resets(device: Device) -> int:
    boot, _, count = device.state.get(_COUNT).partition(" ")
    return int(count) if boot == device.boot_id else 0
