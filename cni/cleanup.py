"""`flatmeshd --cleanup`, the pods' half: bridge, cables, nftables tables, address book.

Goes by the marks alone (hostnet.ownership), so it needs no record to be right. Running pods
lose their interface: this is for a host that leaves the cluster.
"""

from __future__ import annotations

import errno
from pathlib import Path

from cni.pod.firewall import TABLE
from hostnet.kernel import Kernel
from hostnet.kinds.link import delete_link
from hostnet.netlink.socket import NetlinkError
from hostnet.nft import tables as nftables
from hostnet.ownership import POD_ALIAS


def remove_all(state_dir: Path, run_dir: Path) -> list[str]:
    """Remove every trace of pods; returns what could not be, a line each."""
    problems = []
    with Kernel() as kernel:
        # cables before the bridge they are plugged into
        links = [link for link in kernel.links() if link.alias.startswith(POD_ALIAS)]
        for link in sorted(links, key=lambda found: found.kind == "bridge"):
            try:
                kernel.socket.request(delete_link(link.index), f"ip link del {link.name}")
            except NetlinkError as error:
                if error.errno != errno.ENODEV:
                    problems.append(str(error))
    try:
        for family, name in nftables.list_tables():
            if name == TABLE:
                nftables.delete_table(family, name)
    except nftables.NftError as error:
        problems.append(str(error))
    for book in state_dir.glob("addresses.sqlite*"):
        book.unlink(missing_ok=True)
    (run_dir / "attach.json").unlink(missing_ok=True)
    return problems
