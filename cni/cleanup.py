# SPDX-License-Identifier: Apache-2.0
"""The pods' part of `flatmeshd --cleanup`: bridge, veth pairs, nftables tables, address store.

What is ours is told by its mark alone (hostnet.ownership), not by any record. Running pods
lose their interface: this is for a host that leaves the cluster.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from base.paths import ADDRESS_STORE, ATTACH_FILE, DELETED_DIR, DOCKER_FILE, UNANSWERED_DIR
from cni.pod import source_guard
from cni.pod.firewall import TABLE
from hostnet.kernel import Kernel
from hostnet.kinds.link_messages import delete_link
from hostnet.netlink.socket import NetlinkError
from hostnet.nft import tables as nftables
from hostnet.ownership import POD_ALIAS


def pod_interfaces() -> list[str]:
    """The host's ends of pods that run here: they go with the pod's namespace."""
    with Kernel() as kernel:
        links = [link for link in kernel.links() if link.alias.startswith(POD_ALIAS)]
    return sorted(link.name for link in links if link.kind == "veth")


def remove_all(state_dir: Path, run_dir: Path) -> list[str]:
    """Remove every trace of pods; returns a line for each thing that could not be removed."""
    problems = []
    with Kernel() as kernel:
        links = [link for link in kernel.links() if link.alias.startswith(POD_ALIAS)]
        # the bridge last: it is the veths' master
        for link in sorted(links, key=lambda link: link.kind == "bridge"):
            try:
                kernel.socket.request(delete_link(link.index), f"ip link del {link.name}")
            except NetlinkError as error:
                if error.errno != errno.ENODEV:
                    problems.append(str(error))
    try:
        for family, name in nftables.list_tables():
            if name in (TABLE, source_guard.TABLE):
                nftables.delete_table(family, name)
    except nftables.NftError as error:
        problems.append(str(error))
    for file in state_dir.glob(f"{ADDRESS_STORE}*"):  # with SQLite's -wal and -shm
        file.unlink(missing_ok=True)
    (state_dir / DOCKER_FILE).unlink(missing_ok=True)
    (run_dir / ATTACH_FILE).unlink(missing_ok=True)
    for directory in (DELETED_DIR, UNANSWERED_DIR):
        shutil.rmtree(run_dir / directory, ignore_errors=True)
    return problems
