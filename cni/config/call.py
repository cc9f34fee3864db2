# SPDX-License-Identifier: Apache-2.0
"""One call of a plugin as it arrives, before anything of it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class AttachmentKey(NamedTuple):
    """What identifies an attachment: all three together."""

    network: str
    container_id: str
    ifname: str


class CniCall(NamedTuple):
    """A call that came over the daemon's socket, or that this process was started for."""

    plugin: str
    """The executable's name: `flatmesh`, `flatmesh-ipam`, `flannel`."""
    environment: Mapping[str, str]
    stdin: bytes
    netns_fd: int | None = None
    """CNI_NETNS, opened by the client; None when it could not be opened, or we are the client."""
    same_mounts: bool = True
    """Whether the runtime's mount namespace is ours, so that paths mean the same files."""
