# SPDX-License-Identifier: Apache-2.0
"""Leases from Nodes, with the real API server: what changes, what breaks, what is written."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from ipam.host_records import HostRecord
from ipam.lease import LeaseAttributes
from ipam.lease_source import LeaseRequest, LeaseSourceError, Snapshot
from ipam.network import parse_config
from kube.node_source import NodeLeaseSource
from kube.open_source import node_source
from kube.settings import KubeSettings
from lab.time_factor import scaled
from tests.kubernetes.api_server import PLAIN, ApiServer

PREFIX = "flannel.alpha.coreos.com/"
MAC = "c6:d2:32:6f:8f:44"
CONFIG = parse_config('{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}')
ADDRESS = IPv4Address("192.168.64.2")


def lease_on(address: str, mac: str = MAC) -> dict[str, str]:
    return {
        PREFIX + "kube-subnet-manager": "true",
        PREFIX + "backend-type": "vxlan",
        PREFIX + "backend-data": f'{{"VNI":1,"VtepMAC":"{mac}"}}',
        PREFIX + "public-ip": address,
    }


@pytest.fixture
def nodes(api_server: ApiServer) -> Iterator[Callable[..., str]]:
    """Make Nodes: `nodes("10.244.1.0/24", **annotations)`; they are removed at the end."""
    made: list[str] = []

    def make(*cidrs: str, **more: str) -> str:
        name = f"n{secrets.token_hex(4)}"
        api_server.make_node(name, *cidrs, **more)
        made.append(name)
        return name

    yield make
    for name in made:
        with contextlib.suppress(HTTPError):
            api_server.remove_node(name)


class Seen:
    """The snapshots of a source, followed by a task."""

    def __init__(self, source: NodeLeaseSource) -> None:
        self.source = source
        self.all: list[Snapshot] = []

    @property
    def leases(self) -> dict[str, str]:
        return {k: str(lease.attributes.public_ip) for k, lease in self.all[-1].leases.items()}

    async def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + scaled(60)
        while not (self.all and condition()):
            assert time.monotonic() < deadline, f"{what}: {self.all[-1:]}, {self.source.problem()}"
            await asyncio.sleep(0.02)

    async def follow(self) -> None:
        async for snapshot in self.source.snapshots():
            self.all.append(snapshot)


@contextlib.asynccontextmanager
async def following(
    server: ApiServer, directory: Path, net_conf: Path, name: str, **more: Any
) -> AsyncIterator[Seen]:
    settings = KubeSettings(
        kubeconfig=str(server.kubeconfig(directory / "kubeconfig", **more)),
        net_config_path=net_conf,
    )
    async with node_source(settings, {"NODE_NAME": name}) as source:
        seen = Seen(source)
        task = asyncio.create_task(seen.follow())
        try:
            yield seen
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def write(path: Path, text: str) -> Any:
    """Write a file anew; returns the document that was there."""
    there = json.loads(path.read_text())
    path.write_text(text)
    return there


def exchange(path: Path, document: Any) -> None:
    """Another document behind a symbolic link, as the kubelet changes a mounted ConfigMap."""
    new = path.with_name("new.json")
    new.write_text(json.dumps(document))
    path.unlink()
    path.symlink_to(new)


def request(**attributes: Any) -> LeaseRequest:
    async def wanted(said: LeaseAttributes | None) -> LeaseAttributes:
        data = said.backend_data if said is not None else {"VNI": 1, "VtepMAC": MAC}
        return LeaseAttributes(ADDRESS, None, "vxlan", data, **attributes)

    return LeaseRequest(CONFIG, ADDRESS, None, wanted)


def test_peers_come_change_and_go(
    api_server: ApiServer, nodes: Callable[..., str], tmp_path: Path, net_conf: Path
) -> None:
    async def run() -> None:
        own = nodes("10.244.0.0/24")
        first = nodes("10.244.1.0/24", **lease_on("192.168.64.3"))
        async with following(api_server, tmp_path, net_conf, own) as seen:
            await seen.until(lambda: True, "a first snapshot")
            assert seen.leases == {"10.244.1.0-24": "192.168.64.3"}
            second = nodes("10.244.2.0/25", **lease_on("192.168.64.4"))
            await seen.until(lambda: "10.244.2.0-25" in seen.leases, "a node that came")
            assert seen.all[-1].changed == {"10.244.2.0-25"}
            api_server.annotate(first, **{PREFIX + "public-ip": "192.168.64.9"})
            await seen.until(lambda: "192.168.64.9" in seen.leases.values(), "a change")
            count = len(seen.all)
            api_server.annotate(first, other="1")  # concerns nobody here
            api_server.remove_node(second)
            await seen.until(lambda: "10.244.2.0-25" not in seen.leases, "a node that went")
            assert len(seen.all) == count + 1
            assert not seen.all[-1].expired
            api_server.annotate(first, **{PREFIX + "backend-data": "{"})
            await seen.until(lambda: not seen.leases, "a broken node")
            api_server.annotate(first, **lease_on("192.168.64.3"))
            await seen.until(lambda: seen.leases, "a mended node")

    asyncio.run(run())


def test_this_host_is_annotated_as_flannel_does_it(
    api_server: ApiServer, nodes: Callable[..., str], tmp_path: Path, net_conf: Path
) -> None:
    async def run() -> None:
        own = nodes("10.244.0.0/24")
        async with following(api_server, tmp_path, net_conf, own) as seen:
            await seen.until(lambda: True, "a first snapshot")
            lease = await seen.source.hold(request())
            assert lease.key == "10.244.0.0-24"
            there = api_server.node(own)["metadata"]["annotations"]
            assert {k: v for k, v in there.items() if k.startswith(PREFIX)} == lease_on(
                str(ADDRESS)
            )
            await seen.until(lambda: "10.244.0.0-24" in seen.leases, "our own lease")
            version = api_server.node(own)["metadata"]["resourceVersion"]
            await seen.source.hold(request())  # nothing is written again
            assert api_server.node(own)["metadata"]["resourceVersion"] == version
            api_server.annotate(own, **{PREFIX + "public-ip-overwrite": "203.0.113.9"})
            await seen.until(
                lambda: PREFIX + "public-ip-overwrite" in seen.source._view.known[own].annotations,
                "the operator's address",
            )
            lease = await seen.source.hold(request())
            assert lease.attributes.public_ip == IPv4Address("203.0.113.9")
            await seen.until(lambda: "203.0.113.9" in seen.leases.values(), "it is published")
            api_server.annotate(
                own,
                **{PREFIX + "node-public-ip": "192.0.2.1", PREFIX + "node-public-ipv6": "fd00::9"},
            )
            await seen.until(
                lambda: (
                    seen.source.public_addresses()
                    == (IPv4Address("192.0.2.1"), IPv6Address("fd00::9"))
                ),
                "the underlay that the operator chose",
            )
            await seen.source.release(lease)
            await seen.until(lambda: not seen.leases, "the lease is given back")

    asyncio.run(run())


def test_the_condition_is_cleared_once_pods_are_served(
    api_server: ApiServer, nodes: Callable[..., str], tmp_path: Path, net_conf: Path
) -> None:
    async def run() -> None:
        own = nodes("10.244.0.0/24")
        async with following(api_server, tmp_path, net_conf, own) as seen:
            await seen.until(lambda: True, "a first snapshot")
            await seen.source.announce(HostRecord(ready=False))
            assert "conditions" not in api_server.node(own)["status"]
            await seen.source.announce(HostRecord(ready=True))
            [condition] = api_server.node(own)["status"]["conditions"]
            assert condition["type"] == "NetworkUnavailable"
            assert (condition["status"], condition["reason"]) == ("False", "FlannelIsUp")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("cidrs", "why"),
    [
        ((), "has no IPv4 podCIDR: run kube-controller-manager with --allocate-node-cidrs"),
        (("10.5.0.0/24",), "podCIDR 10.5.0.0/24 of node .* lies outside of Network 10.244.0.0/16"),
    ],
)
def test_why_there_is_no_lease_is_one_line(
    api_server: ApiServer,
    nodes: Callable[..., str],
    tmp_path: Path,
    net_conf: Path,
    cidrs: tuple[str, ...],
    why: str,
) -> None:
    async def run() -> None:
        own = nodes(*cidrs)
        async with following(api_server, tmp_path, net_conf, own) as seen:
            await seen.until(lambda: True, "a first snapshot")
            with pytest.raises(LeaseSourceError, match=why):
                await seen.source.hold(request())
            assert seen.source.problem()

    asyncio.run(run())


def test_an_account_without_rights_is_told_which(
    api_server: ApiServer, nodes: Callable[..., str], tmp_path: Path, net_conf: Path
) -> None:
    async def run() -> None:
        own = nodes("10.244.0.0/24")
        async with following(api_server, tmp_path, net_conf, own, token=PLAIN) as seen:
            seen.all.append(Snapshot(None, None, {}))  # none comes
            await seen.until(seen.source.problem, "a problem")
            problem = seen.source.problem() or ""
            assert 'cannot list resource "nodes"' in problem
            assert "\n" not in problem

    asyncio.run(run())


def test_a_rotated_token_is_used_from_the_next_request_on(
    api_server: ApiServer, nodes: Callable[..., str], tmp_path: Path, net_conf: Path
) -> None:
    async def run() -> None:
        own = nodes("10.244.0.0/24")
        path = api_server.kubeconfig(tmp_path / "kubeconfig")
        path.write_text(path.read_text().replace("token: admin-token", "tokenFile: token"))
        (tmp_path / "token").write_text("expired")
        settings = KubeSettings(kubeconfig=str(path), net_config_path=net_conf)
        async with node_source(settings, {"NODE_NAME": own}) as source:
            with pytest.raises(Exception, match="does not know our token"):
                await source.check()
            (tmp_path / "token").write_text("admin-token")
            await source.check()

    asyncio.run(run())


@pytest.mark.parametrize("way", ["stopped", "frozen"])
def test_what_happens_while_the_server_is_away_is_found(
    api_server: ApiServer, nodes: Callable[..., str], tmp_path: Path, net_conf: Path, way: str
) -> None:
    async def run() -> None:
        own = nodes("10.244.0.0/24")
        other = nodes("10.244.1.0/24", **lease_on("192.168.64.3"))
        async with following(api_server, tmp_path, net_conf, own) as seen:
            await seen.until(lambda: True, "a first snapshot")
            if way == "stopped":
                api_server.stop()
                await asyncio.sleep(1)
                assert seen.leases  # what is known stays good
                api_server.start()
            else:
                api_server.freeze(frozen=True)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(seen.source.check(), 2)
                api_server.freeze(frozen=False)
            api_server.remove_node(other)
            nodes("10.244.3.0/24", **lease_on("192.168.64.5"))
            await seen.until(
                lambda: seen.leases == {"10.244.3.0-24": "192.168.64.5"}, "what is there now"
            )

    asyncio.run(run())


def test_a_version_that_is_gone_means_a_new_list(
    api_server: ApiServer, nodes: Callable[..., str], tmp_path: Path, net_conf: Path
) -> None:
    async def run() -> None:
        own = nodes("10.244.0.0/24")
        gone = nodes("10.244.1.0/24", **lease_on("192.168.64.3"))
        async with following(api_server, tmp_path, net_conf, own) as seen:
            await seen.until(lambda: True, "a first snapshot")
            listed = seen.source._view.listed
            api_server.stop()
            seen.source._view._version = "1"  # long compacted, or of another server
            api_server.start()
            api_server.remove_node(gone)
            nodes("10.244.4.0/24", **lease_on("192.168.64.6"))
            await seen.until(lambda: seen.leases == {"10.244.4.0-24": "192.168.64.6"}, "all")
            assert seen.source._view.listed >= listed

    asyncio.run(run())


def test_the_config_in_the_file_is_followed(
    api_server: ApiServer, nodes: Callable[..., str], tmp_path: Path, net_conf: Path
) -> None:
    async def run() -> None:
        own = nodes("10.244.0.0/24")
        async with following(api_server, tmp_path, net_conf, own) as seen:
            await seen.until(lambda: True, "a first snapshot")
            config = write(net_conf, "{")
            await seen.until(lambda: seen.all[-1].config is None, "a broken config is told")
            assert str(net_conf) in str(seen.all[-1].config_error)
            exchange(net_conf, {**config, "Backend": {"Type": "host-gw"}})
            await seen.until(
                lambda: (seen.all[-1].config or CONFIG).backend_type == "host-gw", "the new config"
            )

    asyncio.run(run())


def test_of_two_nodes_with_one_subnet_the_older_has_it(
    api_server: ApiServer, nodes: Callable[..., str], tmp_path: Path, net_conf: Path
) -> None:
    async def run() -> None:
        own = nodes("10.244.0.0/24")
        nodes("10.244.1.0/24", **lease_on("192.168.64.3"))
        await asyncio.sleep(1.1)  # creationTimestamp has whole seconds
        nodes("10.244.1.0/24", **lease_on("192.168.64.4"))
        async with following(api_server, tmp_path, net_conf, own) as seen:
            await seen.until(lambda: True, "a first snapshot")
            assert seen.leases == {"10.244.1.0-24": "192.168.64.3"}

    asyncio.run(run())
