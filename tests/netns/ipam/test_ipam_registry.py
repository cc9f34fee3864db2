"""Leases in a real etcd: joining, owning, renewing, reserving. No host loses its own lease."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, TypeVar

import pytest

from etcd.client import Etcd, EtcdError
from ipam.lease import Lease, LeaseAttributes, LeaseError, format_value
from ipam.network import ConfigError, NetworkConfig, parse_config
from ipam.registry import LeaseLostError, NoFreeSubnetError, Registry
from lab.etcd_server import EtcdServer

Answer = TypeVar("Answer")
TTL = 60


def config(**keys: object) -> NetworkConfig:
    return parse_config(json.dumps({"Network": "10.5.0.0/16", **keys}))


SMALL = config(SubnetMin="10.5.1.0", SubnetMax="10.5.3.0")
DUAL = config(SubnetMin="10.5.1.0", SubnetMax="10.5.20.0", EnableIPv6=True, IPv6Network="fd05::/48")


def host(number: int, **more: Any) -> LeaseAttributes:
    return LeaseAttributes(
        IPv4Address(f"192.168.{number >> 8}.{number & 255}"),
        backend_type="vxlan",
        backend_data={"VNI": 1, "VtepMAC": f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"},
        **more,
    )


def subnet(text: str) -> Any:
    return ip_network(text)


@contextlib.asynccontextmanager
async def registry_of(server: EtcdServer, **flags: Any) -> AsyncIterator[Registry]:
    async with Etcd([server.client_url], **flags) as etcd:
        yield Registry(etcd)


def with_registry(server: EtcdServer, story: Callable[[Registry], Awaitable[Answer]]) -> Answer:
    async def run() -> Answer:
        async with asyncio.timeout(120), registry_of(server) as registry:
            return await story(registry)

    return asyncio.run(run())


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
        assert (again, again.etcd_lease, again.revision) == (
            first,
            first.etcd_lease,
            first.revision,
        )
        assert etcd.revision() == revision
        # new attributes are written under the same etcd lease
        moved = await registry.acquire(SMALL, host(1, backend_v6_data={"VNI": 2}), ttl=TTL)
        assert moved.subnet == first.subnet
        assert moved.etcd_lease == first.etcd_lease
        assert moved.revision > first.revision

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
        assert f"{lease.etcd_lease:x}" != granted
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


# -- owning ----------------------------------------------------------------------------------


def test_a_renewal_writes_no_key_so_it_can_not_take_one(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), ttl=TTL)
        # somebody writes another host's lease over ours, as flanneld's renewal does
        key = f"/coreos.com/network/subnets/{lease.key}"
        etcd.ctl("put", key, format_value(host(2)))
        renewing = asyncio.create_task(registry.keep_alive(lease))
        async with asyncio.timeout(20):
            while etcd.requests().get("LeaseKeepAlive", 0) < 1:  # noqa: ASYNC110 - its metric
                await asyncio.sleep(0.02)
        there, _ = await registry.leases()
        assert there[lease.key].attributes == host(2)
        with pytest.raises(LeaseLostError, match=lease.key):
            await registry.update(lease, host(1))
        assert not await registry.release(lease)
        assert (await registry.leases())[0] == there
        renewing.cancel()

    with_registry(etcd, story)


def test_a_deleted_key_is_noticed_by_every_write_and_can_be_taken_again(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), ttl=TTL)
        etcd.ctl("del", f"/coreos.com/network/subnets/{lease.key}")
        with pytest.raises(LeaseLostError):
            await registry.update(lease, host(1))
        again = await registry.acquire(SMALL, host(1), previous=lease, ttl=TTL)
        assert again == lease
        assert again.revision > lease.revision

    with_registry(etcd, story)


def test_keep_alive_keeps_alive_and_returns_when_the_lease_is_gone(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), ttl=5)
        other = await registry.acquire(SMALL, host(2), ttl=5)
        renewing = asyncio.create_task(registry.keep_alive(lease))
        async with asyncio.timeout(30):  # the one that isn't renewed ends, ours outlives it
            while other.key in (await registry.leases())[0]:  # noqa: ASYNC110 - etcd's clock
                await asyncio.sleep(0.1)
        assert lease.key in (await registry.leases())[0]
        assert not renewing.done()
        etcd.ctl("lease", "revoke", f"{lease.etcd_lease:x}")
        async with asyncio.timeout(30):
            await renewing
        with pytest.raises(LeaseLostError, match=r"has expired|no longer"):
            await registry.update(lease, host(1, backend_v6_data={}))

    with_registry(etcd, story)


def test_keep_alive_goes_on_after_an_outage(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), ttl=10)
        etcd.stop()
        renewing = asyncio.create_task(registry.keep_alive(lease))
        with pytest.raises(EtcdError):
            await registry.leases()
        assert not renewing.done()
        etcd.start()
        async with asyncio.timeout(30):
            while not etcd.requests().get("LeaseKeepAlive"):  # noqa: ASYNC110 - its metric
                await asyncio.sleep(0.05)
        assert lease.key in (await registry.leases())[0]
        assert not renewing.done()
        renewing.cancel()

    with_registry(etcd, story)


def test_an_etcd_started_empty_ends_the_lease_and_the_same_subnet_is_taken_again(
    etcd: EtcdServer,
) -> None:
    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), ttl=TTL)
        etcd.wipe()
        etcd.start()
        async with asyncio.timeout(30):
            await registry.keep_alive(lease)  # returns: etcd doesn't know it
        again = await registry.acquire(SMALL, host(1), previous=lease, ttl=TTL)
        assert again == lease

    with_registry(etcd, story)


def test_after_a_partition_longer_than_the_lease_another_host_may_have_the_subnet(
    etcd: EtcdServer,
) -> None:
    """Only our way to etcd is cut: it goes on at another address, where others find it."""
    hidden = replace(etcd, client_url=etcd.client_url.replace("2379", "4379"))
    previous = Lease(subnet("10.5.2.0/24"), None)

    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), previous=previous, ttl=5)
        renewing = asyncio.create_task(registry.keep_alive(lease))
        etcd.stop()
        hidden.start()
        async with registry_of(hidden) as others, asyncio.timeout(40):
            while lease.key in (await others.leases())[0]:  # noqa: ASYNC110 - etcd's clock
                await asyncio.sleep(0.1)
            taken = await others.acquire(SMALL, host(2), previous=previous, ttl=TTL)
        assert taken.subnet == lease.subnet
        assert not renewing.done()  # it stays ours until etcd says otherwise
        hidden.stop()
        etcd.start()
        async with asyncio.timeout(40):
            await renewing
        again = await registry.acquire(SMALL, host(1), previous=lease, ttl=TTL)
        assert again.subnet != lease.subnet
        there, _ = await registry.leases()
        assert there[taken.key].attributes == host(2)

    with_registry(etcd, story)
    hidden.stop()


def test_a_cancelled_join_leaves_nothing(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        for step in range(1, 12):
            joining = asyncio.create_task(registry.acquire(SMALL, host(1), ttl=TTL))
            for _ in range(step):
                await asyncio.sleep(0)
            joining.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await joining
        lease = await registry.acquire(SMALL, host(2), ttl=TTL)
        there, _ = await registry.leases()
        # at most our own, from a transaction that was on its way; never two
        assert len([k for k, held in there.items() if held.attributes == host(1)]) <= 1
        assert there[lease.key] == lease

    with_registry(etcd, story)


# -- reservations ----------------------------------------------------------------------------


def test_a_reservation_is_used_by_its_host_and_by_nobody_else(etcd: EtcdServer) -> None:
    etcd.ctl("put", "/coreos.com/network/config", '{"Network":"10.5.0.0/16"}')

    async def story(registry: Registry) -> None:
        wanted = subnet("10.5.2.0/24")
        reserved = await registry.reserve(wanted, None, "192.168.0.1")
        assert reserved.reserved
        assert await registry.reserve(wanted, None, "192.168.0.1") == reserved  # twice is once
        others = [await registry.acquire(SMALL, host(n), ttl=TTL) for n in (2, 3)]
        assert wanted not in {lease.subnet for lease in others}
        with pytest.raises(NoFreeSubnetError):
            await registry.acquire(SMALL, host(4), ttl=TTL)
        mine = await registry.acquire(SMALL, host(1), ttl=TTL)
        assert mine.subnet == wanted
        assert mine.reserved
        assert mine.etcd_lease == 0
        assert mine.attributes == host(1)
        renewing = asyncio.create_task(registry.keep_alive(mine))  # nothing to renew
        updated = await registry.update(mine, host(1, backend_v6_data={"VNI": 3}))
        assert updated.reserved
        again = await registry.acquire(SMALL, host(1, backend_v6_data={"VNI": 3}), ttl=TTL)
        assert again == updated
        assert not renewing.done()
        renewing.cancel()

    with_registry(etcd, story)


def test_a_host_can_have_its_own_lease_reserved(etcd: EtcdServer) -> None:
    etcd.ctl("put", "/coreos.com/network/config", '{"Network":"10.5.0.0/16"}')

    async def story(registry: Registry) -> None:
        lease = await registry.acquire(SMALL, host(1), ttl=TTL)
        reserved = await registry.reserve(lease.subnet, None, "192.168.0.1")
        assert reserved.reserved
        assert reserved.attributes == host(1)  # peers go on reaching it
        etcd.ctl("lease", "revoke", f"{lease.etcd_lease:x}")
        assert lease.key in (await registry.leases())[0]

    with_registry(etcd, story)


@pytest.mark.parametrize(
    ("wanted", "address", "part"),
    [
        ("10.5.9.0/24", "192.168.0.2", "held"),
        ("10.6.9.0/24", "192.168.0.1", "no subnet of 10.5.0.0/16"),
        ("10.5.9.0/25", "192.168.0.1", "no subnet of 10.5.0.0/16"),
        ("10.5.9.0/24", "nonsense", "public IP"),
    ],
)
def test_reservations_that_are_refused(
    etcd: EtcdServer, wanted: str, address: str, part: str
) -> None:
    etcd.ctl("put", "/coreos.com/network/config", '{"Network":"10.5.0.0/16"}')

    async def story(registry: Registry) -> None:
        await registry.reserve(subnet("10.5.9.0/24"), None, "192.168.0.1")
        with pytest.raises(LeaseError, match=part):
            await registry.reserve(subnet(wanted), None, address)
        assert await registry.release_subnet(subnet("10.5.9.0/24"), None)
        assert not await registry.release_subnet(subnet("10.5.9.0/24"), None)

    with_registry(etcd, story)


def test_no_config_and_a_broken_one_are_one_line(etcd: EtcdServer) -> None:
    async def story(registry: Registry) -> None:
        with pytest.raises(ConfigError, match=r"/coreos\.com/network/config: write one with"):
            await registry.config()
        await registry.set_config("{}")
        with pytest.raises(ConfigError, match="Network is missing"):
            await registry.config()
        await registry.set_config('{"Network":"10.5.0.0/16"}')
        assert (await registry.config())[0] == config()
        assert await registry.config_text() == '{"Network":"10.5.0.0/16"}'

    with_registry(etcd, story)
