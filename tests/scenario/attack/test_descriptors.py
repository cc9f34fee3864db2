# SPDX-License-Identifier: Apache-2.0
"""The daemon runs out of file descriptors: it survives, and goes on when there are some again."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.cluster import Lab

On = Callable[..., str]
Eventually = Callable[..., None]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("backend", ["vxlan", "udp", "wireguard", "ovs"])
def test_no_descriptor_is_left(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually, backend: str
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1, backend={"Type": backend})
    lab.stop_daemon(1)
    lab.start_daemon(1, "--healthz-port=9000", "--resync=1")
    lab.wait_ready(1)
    pid = lab.daemon_pid(1)
    assert pid is not None
    host = lab.names.host(1)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    lowest_free = next(number for number in range(len(used) + 1) if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        on(host, "nft delete table inet flatmesh")  # to be repaired, for which it opens sockets
        on(host, "ip link set kbr0 mtu 1300")
        lab.add_pod(1, "late")  # answered by the executable, when the daemon can't
        before = cpu_seconds(pid)
        time.sleep(3)
        assert lab.daemon_pid(1) == pid, lab.log(1)[-3000:]
        assert cpu_seconds(pid) - before < 1.5, "it tries again without a pause"
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    eventually(
        lambda: "table inet flatmesh" in on(host, "nft list tables"), "the table is back", 40
    )
    assert lab.daemon_pid(1) == pid
    first, last = lab.pods[0], lab.pods[-1]
    ping = f"ping -c 1 -W 1 {last.addresses[0]}"
    eventually(lambda: "1 received" in on(first.netns, ping, check=False), "pods are reached", 40)
