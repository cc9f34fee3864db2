# SPDX-License-Identifier: Apache-2.0
"""Files that a pod's containers are given: secrets, configs, /etc/hosts, directories in memory.

They are below the run directory, which is on a tmpfs (/run), readable by root alone; a container
sees each bound to its place.
"""

from __future__ import annotations

import os
from pathlib import Path

from scheduler.runtime.containerd import cri_pb2 as pb
from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.process.etc_files import contents
from scheduler.runtime.protocol import ContainerConfig, PodConfig


def make_mounts(
    directory: Path, config: ContainerConfig, pod: PodConfig, address: str
) -> list[pb.Mount]:
    """Write what a container is given, and say where it goes. Raises RuntimeCallError."""
    own = directory / config.name
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = []
    for number, mount in enumerate(config.mounts):
        if mount.kind == "bind":
            if not Path(mount.source).exists():
                raise RuntimeCallError(
                    f"bind source path does not exist on this node: {mount.source}"
                )
            source = Path(mount.source)
        else:
            if mount.size:
                raise RuntimeCallError(
                    f"tmpfs {mount.target}: the runtime `containerd` can't limit its size; "
                    "leave the size out"
                )
            source = own / f"tmpfs{number}"
            source.mkdir()
            source.chmod(mount.mode)
        found.append(_mount(mount.target, source, mount.read_only))
    for number, file in enumerate(config.files):
        source = own / f"file{number}"
        descriptor = os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(file.content)
        os.chown(source, file.uid, file.gid)
        source.chmod(file.mode)
        found.append(_mount(file.target, source, read_only=True))
    if not pod.host_network:
        hosts = own / "hosts"
        hosts.write_text(contents(pod, pod.hostname or pod.id[:12], address)["hosts"])
        hosts.chmod(0o644)
        found.append(_mount("/etc/hosts", hosts, read_only=False))
    return found


def _mount(target: str, source: Path, read_only: bool) -> pb.Mount:
    return pb.Mount(container_path=target, host_path=str(source), readonly=read_only)
