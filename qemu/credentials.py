"""What a test needs in a guest that boots its own initramfs: as credentials, by SMBIOS.

systemd 256 or newer takes units, drop-ins and files from there, so nothing on the disk is changed.

Source: systemd.system-credentials(7) (``tmpfiles.extra``, ``systemd.extra-unit.*``,
``systemd.unit-dropin.*``), systemd.exec(5) on SMBIOS type 11 strings.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

_UNITS = "systemd/system"
#: What a unit runs is one of the files, and Debian's initramfs lets nothing in /run be executed.
_AFTER_FILES = """\
[Unit]
After=systemd-tmpfiles-setup.service

[Service]
ExecStartPre=mount -o remount,exec /run
"""


def options(directory: Path, run_files: Mapping[str, bytes | str]) -> list[str]:
    """Return QEMU's options that bring files, which are as for ``initrd.build``, to ``/run``.

    Args:
        directory: the strings are written there.
    """
    found: list[str] = []
    for name, value in _credentials(run_files).items():
        path = directory / f"smbios-{len(found)}"
        encoded = base64.b64encode(value.encode()).decode()
        path.write_text(f"io.systemd.credential.binary:{name}={encoded}")
        found += ["-smbios", f"type=11,path={path}"]
    return found


def _credentials(run_files: Mapping[str, bytes | str]) -> dict[str, str]:
    found: dict[str, str] = {}
    lines = []
    for name, content in run_files.items():
        data = content.encode() if isinstance(content, str) else content
        path = PurePosixPath(name)
        if str(path.parent) == _UNITS:
            found[f"systemd.extra-unit.{path.name}"] = data.decode()
            found[f"systemd.unit-dropin.{path.name}~files"] = _AFTER_FILES
        elif str(path.parent.parent) == _UNITS:
            wanted = f"[Unit]\nWants={path.name}\n"
            found[f"systemd.unit-dropin.{path.parent.stem}~test"] = wanted
        else:
            mode = "0755" if data.startswith(b"#!") else "0644"
            encoded = base64.b64encode(data).decode()
            lines.append(f"f+~ /run/{name} {mode} - - - {encoded}\n")
    return {**found, "tmpfiles.extra": "".join(lines)}
