# SPDX-License-Identifier: Apache-2.0
"""What was attached, kept on disk: DEL, CHECK and GC need the config and the result of the ADD."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one pod in one network."""

    network: str
    pod_id: str
    interface: str
    config: dict[str, Any]
    """The list, as it was at the ADD."""
    capability_args: dict[str, Any]
    arguments: str
    """CNI_ARGS."""
    netns: str
    result: dict[str, Any] | None
    """None: the ADD has not ended, or nobody saw it end."""

    def addresses(self) -> tuple[str, ...]:
        """The pod's addresses with their prefix lengths."""
        result = self.result or {}
        found = [ip["address"] for ip in result.get("ips") or () if "address" in ip]
        old = ("ip4", "ip6")  # results up to 0.2.0
        found += [result[name]["ip"] for name in old if "ip" in (result.get(name) or {})]
        return tuple(found)


class AttachmentCache:
    """A directory with a file per attachment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _path(self, network: str, pod_id: str, interface: str) -> Path:
        return self.directory / f"{pod_id}@{interface}@{network}.json"

    def write(self, attachment: Attachment) -> None:
        """Keep it; a crash leaves the old file or the new one."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(attachment.network, attachment.pod_id, attachment.interface)
        temporary = path.with_suffix(".new")
        fields = {name: getattr(attachment, name) for name in Attachment.__slots__}
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            json.dump(fields, out)
        temporary.replace(path)

    def remove(self, attachment: Attachment) -> None:
        """Forget it."""
        path = self._path(attachment.network, attachment.pod_id, attachment.interface)
        path.unlink(missing_ok=True)

    def list(self, pod_id: str | None = None) -> list[Attachment]:
        """All, or those of a pod, in the order of their interfaces."""
        return list(self._read(f"{pod_id}@*.json" if pod_id else "*@*.json"))

    def _read(self, pattern: str) -> Iterator[Attachment]:
        for path in sorted(self.directory.glob(pattern)):
            with contextlib.suppress(OSError, ValueError, TypeError):
                yield Attachment(**json.loads(path.read_text()))
