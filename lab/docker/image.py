# SPDX-License-Identifier: Apache-2.0
"""A container image from this machine's static busybox: nothing is downloaded."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
IMAGE = "flatmesh-busybox"
TOOLS = "sh", "ping", "nc", "ip", "sleep", "nslookup", "cat", "arping", "wget", "httpd", "ps"


def image_archive(tools: Sequence[str] = TOOLS) -> bytes:
    """A root file system as `docker import` takes it. Raises OSError: there is no busybox."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        program = BUSYBOX.read_bytes()
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(program), 0o755
        archive.addfile(entry, io.BytesIO(program))
        for name in tools:
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        for name in ("etc", "proc", "sys", "dev", "tmp"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(directory)
    return out.getvalue()
