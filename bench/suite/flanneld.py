# SPDX-License-Identifier: Apache-2.0
"""A baseline where it is installed: the real flanneld, `flanneld` on PATH.

Two hosts as namespaces, an etcd, flanneld on each host, and on each a bridge with one pod, whose
address and MTU are those of flanneld's subnet.env.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import click

from bench.suite.hand_made import UNDERLAY_MTU, attach_pod
from bench.traffic import TrafficPath, in_netns
from bench.wait import wait_for_ping, wait_until
from ipam.subnet_env import SubnetEnv
from lab import hosts, processes
from lab.etcd_server import EtcdServer
from lab.hosts import Names
from lab.removal import remove_namespaces

PREFIX = "/coreos.com/network"
NETWORK = "10.5.0.0/16"


@contextlib.contextmanager
def flanneld(
    label: str, backend: Mapping[str, Any], name: str, directory: Path
) -> Iterator[TrafficPath]:
    """Two hosts run by flanneld; from the pod of one to the pod of the other."""
    names = Names(name)
    remove_namespaces(names)
    own = directory / name
    own.mkdir()
    endpoint = f"http://{hosts.UNDERLAY_IPV4}.1:2379"
    etcd = EtcdServer(
        own / "etcd",
        client_url=endpoint,
        peer_url=endpoint.replace("2379", "2380"),
        netns=names.underlay,
    )
    try:
        hosts.make_underlay(names, UNDERLAY_MTU, ipv6=False)
        etcd.start()
        config = {"Network": NETWORK, "Backend": dict(backend)}
        etcd.ctl("put", f"{PREFIX}/config", json.dumps(config))
        addresses = {}
        for number in (1, 2):
            addresses[number] = _host(names, number, own, endpoint)
        client, server = (in_netns(names.pod(number, "p1")) for number in (1, 2))
        wait_for_ping(client, addresses[2], label)
        yield TrafficPath(label, client, server, addresses[2])
    finally:
        remove_namespaces(names)


def _host(names: Names, number: int, directory: Path, endpoint: str) -> str:
    """Start flanneld on a host and attach a pod; returns the pod's address."""
    hosts.make_host(names, number, UNDERLAY_MTU, ipv6=False)
    file, log = directory / f"h{number}.env", directory / f"h{number}.log"
    argv = ["flanneld", f"--etcd-endpoints={endpoint}", "--iface=eth0", f"--subnet-file={file}"]
    process = processes.spawn(argv, names.host(number), log)
    wait_until(lambda: file.exists() or process.poll() is not None, f"flanneld's {file}")
    if not file.exists():
        words = log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise click.ClickException(f"flanneld ended: {words or 'it said nothing'}")
    env = SubnetEnv.read(file)
    if env.subnet is None:
        raise click.ClickException(f"flanneld's {file} has no FLANNEL_SUBNET")
    return attach_pod(names, number, IPv4Interface(env.subnet), env.mtu)
