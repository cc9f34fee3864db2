# SPDX-License-Identifier: Apache-2.0
"""A lease view of an etcd that has services, too: it reads none of them, and misses no lease."""

from __future__ import annotations

from etcd.client import Etcd, WatchBatch
from ipam.lease_view import NOT_OURS, _only
from lab.etcd_server import EtcdServer
from services.keys import Keys
from tests.netns.ipam.lease_reader import CONFIG, PREFIX, delete, elsewhere, put, reading, run

KEYS = Keys(PREFIX)
OF_SERVICES = [
    KEYS.service("web"),
    KEYS.endpoint("web", "a"),
    f"{KEYS.address_claims}10.96.0.1",
]


def test_services_are_neither_listed_nor_known(etcd: EtcdServer) -> None:
    beside = [f"{PREFIX}/config", f"{PREFIX}/endpoint", f"{PREFIX}/vips/v", f"{PREFIX}/a"]

    async def story() -> None:
        async with Etcd([etcd.client_url]) as client:
            for key in [*OF_SERVICES, *beside, f"{PREFIX}-other/x"]:
                await client.put(key, CONFIG.encode())
            prefix = f"{PREFIX}/"
            left_out = [prefix + one for one in NOT_OURS]
            found, revision = await client.list_around(prefix, left_out)
            everything, same_revision = await client.list(prefix)
            assert revision == same_revision
            assert found == [kv for kv in everything if kv.key not in OF_SERVICES]
            assert sorted(beside) == [kv.key for kv in found]
            put(etcd, 1)
            async with reading(etcd) as reader:
                await reader.until_holds(1)
                known = reader.view.revision
                for key in OF_SERVICES:
                    await client.put(key, b"{}")
                put(etcd, 2)
                await reader.until_holds(1, 2)
                assert reader.view.revision == known + len(OF_SERVICES) + 1
                assert not reader.view._known.keys() & set(OF_SERVICES)

    run(story())


def test_a_watch_that_broke_among_changes_of_services_goes_on(etcd: EtcdServer) -> None:
    etcd.ctl("put", f"{PREFIX}/config", CONFIG)
    put(etcd, 1)
    put(etcd, 2)

    async def story() -> None:
        async with reading(etcd) as reader:
            await reader.until_holds(1, 2)
            for key in OF_SERVICES:
                etcd.ctl("put", key, "{}")
            with elsewhere(etcd) as hidden:
                hidden.ctl("put", OF_SERVICES[0], "{}")
                put(hidden, 3)
                delete(hidden, 1)
                hidden.ctl("del", OF_SERVICES[1])
            await reader.until_holds(2, 3)
            assert reader.view.listed == 1
            assert reader.view.history == 0

    run(story())


def test_a_batch_goes_on_from_the_last_event_of_the_view() -> None:
    event = (f"{PREFIX}/subnets/10.5.1.0-24", None)
    service = (OF_SERVICES[0], None)
    left_out = tuple(f"{PREFIX}/{one}" for one in NOT_OURS)
    assert _only(WatchBatch(4, ()), left_out) == WatchBatch(4, ())
    assert _only(WatchBatch(5, (service,)), left_out) is None
    assert _only(WatchBatch(6, (service, event)), left_out) == WatchBatch(6, (event,))
    assert _only(WatchBatch(7, (event, service)), left_out) == WatchBatch(0, (event,))
