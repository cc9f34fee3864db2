# SPDX-License-Identifier: Apache-2.0
"""Leases in a real etcd: joining, and coming back as the same host."""

from __future__ import annotations

import asyncio
import json
from ipaddress import IPv4Address, IPv6Address

import pytest

from ipam.etcd_origin import origin_of
from ipam.lease import Lease, LeaseAttributes, format_value
from ipam.network import parse_config
from ipam.registry import NoFreeSubnetError, Registry
from lab.etcd_server import EtcdServer
from tests.netns.ipam.registry_hosts import (
    DUAL,
    SMALL,
    TTL,
    config,
    host,
    registry_of,
    subnet,
    with_registry,
)

# -- joining ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dual", [False, True], ids=["ipv4", "dual stack"])
def test_200_hosts_at_once_for_exactly_200_subnets(etcd: EtcdServer, dual: bool) -> None:
    keys = {"EnableIPv6": True, "IPv6Network": "fd05::/48"} if dual else {}
    exact = config(SubnetMin="10.5.1.0", SubnetMax="10.5.200.0", **keys)

    async def story(registry: Registry) -> None:
        async def join(number: int) -> Lease:
            async with registry_of(etcd) as own:  # each with a connection of its own
                return await own.acquire(exact, host(number), ttl=TTL)

        leases = await asyncio.gather(*map(join, range(1, 201)))
        assert len({lease.subnet for lease in leases}) == 200
        if dual:
            assert len({lease.ipv6_subnet for lease in leases}) == 200
        there, _ = await registry.leases()
        assert {lease.key: lease for lease in leases} == there
        assert all(not lease.reserved for lease in there.values())
        with pytest.raises(NoFreeSubnetError, match=r"no free subnet in 10\.5\.0\.0/16"):
            await registry.acquire(exact, host(201), ttl=TTL)

    with_registry(etcd, story)
    requests = etcd.requests()
    # each host lists, asks for an etcd lease and transacts a few times, not in a loop
    assert requests["Range"] < 250
    assert requests["Txn"] < 800


def test_hosts_that_race_for_too_few_subnets_get_a_clear_error_and_one_when_it_frees(
    etcd: EtcdServer,
) -> None:
    async def story(registry: Registry) -> None:
        joining = (registry.acquire(SMALL, host(n), ttl=TTL) for n in range(1, 11))
        results = await asyncio.gather(*joining, return_exceptions=True)
        leases = [r for r in results if isinstance(r, Lease)]
        assert len({lease.subnet for lease in leases}) == 3
        refused = [r for r in results if not isinstance(r, Lease)]
        assert {type(r) for r in refused} == {NoFreeSubnetError}
        assert "flatmesh lease release" in str(refused[0])
        before = etcd.requests()
        with pytest.raises(NoFreeSubnetError):
            await registry.acquire(SMALL, host(11), ttl=TTL)
        after = etcd.requests()
        assert after["Range"] - before["Range"] == 1  # a daemon that waits only reads
        assert after["Txn"] == before["Txn"]
        assert after["LeaseGrant"] == before["LeaseGrant"]
        assert await registry.release(leases[1])
        late = await registry.acquire(SMALL, host(11), ttl=TTL)
        assert late.subnet == leases[1].subnet

    with_registry(etcd, story)


def test_joining_costs_one_list_one_grant_and_one_transaction(etcd: EtcdServer) -> None:
    with_registry(etcd, lambda registry: registry.acquire(SMALL, host(1), ttl=TTL))
    assert etcd.requests() == {"Range": 1, "LeaseGrant": 1, "Txn": 1}


def test_the_previous_subnet_is_taken_again_if_it_is_free(etcd: EtcdServer) -> None:
    previous = Lease(subnet("10.5.77.0/24"), None)

    async def story(registry: Registry) -> None:
        first = await registry.acquire(config(), host(1), previous=previous, ttl=TTL)
        assert first.subnet == previous.subnet
        second = await registry.acquire(config(), host(2), previous=previous, ttl=TTL)
        assert second.subnet != previous.subnet

    with_registry(etcd, story)


def test_keys_are_flannelds_byte_for_byte(etcd: EtcdServer) -> None:
    previous = Lease(subnet("10.5.4.0/24"), subnet("fd05:0:0:4::/64"))
    attributes = LeaseAttributes(IPv4Address("192.168.64.3"), IPv6Address("fd00:1::3"), "host-gw")
    with_registry(
        etcd, lambda registry: registry.acquire(DUAL, attributes, previous=previous, ttl=TTL)
    )
    stored = json.loads(etcd.ctl("get", "--prefix", "/coreos.com/", "-w=json"))["kvs"]
    import base64

    assert [base64.b64decode(kv["key"]).decode() for kv in stored] == [
        "/coreos.com/network/subnets/10.5.4.0-24&fd05:0:0:4::-64"
    ]
    assert base64.b64decode(stored[0]["value"]).decode() == (
        '{"PublicIP":"192.168.64.3","PublicIPv6":"fd00:1::3","BackendType":"host-gw"}'
    )
    assert stored[0]["lease"]


def test_broken_and_foreign_keys_hold_what_they_name(etcd: EtcdServer) -> None:
    for name in ("10.5.1.0-24", "hello", "10.5.3.0-24&fd05::-64", "10.5.2.7-24"):
        etcd.ctl("put", f"/coreos.com/network/subnets/{name}", "not json")
    lease = with_registry(etcd, lambda registry: registry.acquire(SMALL, host(1), ttl=TTL))
    assert lease.key == "10.5.2.0-24"


def test_leftovers_of_broken_pairs_are_combined_without_overlap(etcd: EtcdServer) -> None:
    small = config(
        SubnetMin="10.5.1.0",
        SubnetMax="10.5.6.0",
        EnableIPv6=True,
        IPv6Network="fd05::/48",
        IPv6SubnetMin="fd05:0:0:1::",
        IPv6SubnetMax="fd05:0:0:6::",
    )
    for one, other in ((1, 2), (2, 3), (3, 1)):  # paired at random, as flanneld does
        etcd.ctl(
            "put",
            f"/coreos.com/network/subnets/10.5.{one}.0-24&fd05:0:0:{other}::-64",
            '{"PublicIP":"1.2.3.4","PublicIPv6":null}',
        )
    etcd.ctl("put", "/coreos.com/network/subnets/10.5.4.0-24&fd05:0:0:5::-64", "{}")

    async def story(registry: Registry) -> None:
        joining = [registry.acquire(small, host(n), ttl=TTL) for n in (1, 2)]
        leases = await asyncio.gather(*joining)
        assert {lease.subnet for lease in leases} == {
            subnet("10.5.5.0/24"),
            subnet("10.5.6.0/24"),
        }
        assert {lease.ipv6_subnet for lease in leases} == {
            subnet("fd05:0:0:4::/64"),
            subnet("fd05:0:0:6::/64"),
        }

    with_registry(etcd, story)


def test_ipv6_alone(etcd: EtcdServer) -> None:
    ipv6 = parse_config('{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd05::/48"}')
    attributes = LeaseAttributes(None, IPv6Address("fd00:1::3"), "host-gw")

    async def story(registry: Registry) -> None:
        lease = await registry.acquire(ipv6, attributes, ttl=TTL)
        assert lease.subnet is None
        again = await registry.acquire(ipv6, attributes, ttl=TTL)
        assert again == lease
        assert (await registry.leases())[0] == {lease.key: lease}

    with_registry(etcd, story)


# -- coming back -----------------------------------------------------------------------------


def test_a_daemon_that_starts_again_goes_on_without_a_write(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        first = await registry.acquire(SMALL, host(1), ttl=TTL)
        revision = etcd.revision()
        again = await registry.acquire(SMALL, host(1), ttl=TTL)
        assert (again, origin_of(again).etcd_lease, origin_of(again).revision) == (
            first,
            origin_of(first).etcd_lease,
            origin_of(first).revision,
        )
        assert etcd.revision() == revision
        # new attributes are written under the same etcd lease
        moved = await registry.acquire(SMALL, host(1, backend_v6_data={"VNI": 2}), ttl=TTL)
        assert moved.subnet == first.subnet
        assert origin_of(moved).etcd_lease == origin_of(first).etcd_lease
        assert origin_of(moved).revision > origin_of(first).revision

    with_registry(etcd, story)


def test_flannelds_lease_is_taken_over_with_our_own_time_to_live(etcd: EtcdServer) -> None:
    granted = etcd.ctl("lease", "grant", "86400").split()[1]
    etcd.ctl(
        "put",
        f"--lease={granted}",
        "/coreos.com/network/subnets/10.5.2.0-24",
        format_value(host(1)),
    )

    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), ttl=TTL)
        assert lease.key == "10.5.2.0-24"
        assert f"{origin_of(lease).etcd_lease:x}" != granted
        etcd.ctl("lease", "revoke", granted)  # flanneld's etcd lease expires, and our key stays
        assert lease.key in (await registry.leases())[0]

    with_registry(etcd, story)


def test_switching_a_family_on_and_off_keeps_the_subnet(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        alone = await registry.acquire(config(), host(1), ttl=TTL)
        wide = config(EnableIPv6=True, IPv6Network="fd05::/48")
        both = await registry.acquire(wide, host(1), ttl=TTL)
        assert both.subnet == alone.subnet
        assert both.ipv6_subnet is not None
        back = await registry.acquire(config(), host(1), ttl=TTL)
        assert back.key == alone.key
        assert set((await registry.leases())[0]) == {alone.key}

    with_registry(etcd, story)


def test_a_lease_that_no_longer_fits_is_left_to_its_pods(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        old = await registry.acquire(SMALL, host(1), ttl=TTL)
        other = parse_config('{"Network":"10.9.0.0/16"}')
        new = await registry.acquire(other, host(1), ttl=TTL)
        assert new.subnet is not None
        assert new.subnet.subnet_of(subnet("10.9.0.0/16"))
        assert set((await registry.leases())[0]) == {old.key, new.key}

    with_registry(etcd, story)
