# SPDX-License-Identifier: Apache-2.0
"""Writes leases of made-up hosts into etcd, on command; runs beside the etcd it writes to.

One command a line on stdin, one answer a line on stdout: `put FIRST COUNT` and
`delete FIRST COUNT` answer with the moment (time.time()) just before the first write.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from etcd.client import Etcd

PREFIX = "/coreos.com/network/subnets/"
RELEASED = "/coreos.com/network/released/"
CONCURRENT_WRITES = 64  # writes under way at the same moment


def subnet(number: int) -> str:
    """The subnet of a made-up host: `10.64.0.0` for number 0, one /24 after the other."""
    return f"10.{64 + number // 256}.{number % 256}.0"


def value(number: int) -> bytes:
    """The lease's value in etcd, as flanneld would write it."""
    high, low = divmod(number, 250)
    return json.dumps(
        {
            "PublicIP": f"172.20.{high}.{low + 1}",
            "PublicIPv6": None,
            "BackendType": "vxlan",
            "BackendData": {"VNI": 1, "VtepMAC": f"02:00:00:00:{high:02x}:{low:02x}"},
        },
        separators=(",", ":"),
    ).encode()


async def work(endpoint: str) -> None:
    """Serve commands until stdin ends."""
    async with Etcd([endpoint]) as etcd:
        gate = asyncio.Semaphore(CONCURRENT_WRITES)

        async def one(verb: str, number: int) -> None:
            async with gate:
                key = f"{PREFIX}{subnet(number)}-24"
                if verb == "put":
                    await etcd.put(key, value(number))
                else:  # as a release does
                    await etcd.delete_if(
                        key, mod_revision=None, marker=f"{RELEASED}{subnet(number)}-24"
                    )

        while line := await asyncio.to_thread(sys.stdin.readline):
            verb, first, count = line.split()
            started = time.time()
            numbers = range(int(first), int(first) + int(count))
            await asyncio.gather(*(one(verb, number) for number in numbers))
            sys.stdout.write(f"{started}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
