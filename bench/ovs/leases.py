# SPDX-License-Identifier: Apache-2.0
"""Writes leases of made-up ovs hosts into etcd, on command; runs beside the etcd it writes to.

    python -m bench.ovs.leases ENDPOINT

One command a line on stdin, `FIRST COUNT`; one answer a line on stdout: the moment (time.time())
just before the first write.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from bench.lease_writer import CONCURRENT_WRITES, PREFIX, subnet
from etcd.client import Etcd
from ovs_mesh.config import IANA_PORT


def lease(number: int) -> bytes:
    """The lease of a made-up host."""
    high, low = divmod(number, 250)
    data = {"Tunnel": "vxlan", "Key": 1, "Port": IANA_PORT["vxlan"], "Mesh": "flow"}
    address = f"172.20.{high}.{low + 1}"
    return json.dumps({"PublicIP": address, "BackendType": "ovs", "BackendData": data}).encode()


async def serve_leases(endpoint: str) -> None:
    """Serve lines `FIRST COUNT` from stdin; answer with the moment before the first write."""
    async with Etcd([endpoint]) as etcd:
        gate = asyncio.Semaphore(CONCURRENT_WRITES)

        async def one(number: int) -> None:
            async with gate:
                await etcd.put(f"{PREFIX}{subnet(number)}-24", lease(number))

        while line := await asyncio.to_thread(sys.stdin.readline):
            first, count = map(int, line.split())
            started = time.time()
            await asyncio.gather(*(one(number) for number in range(first, first + count)))
            print(started, flush=True)


if __name__ == "__main__":
    asyncio.run(serve_leases(sys.argv[1]))
