# SPDX-License-Identifier: Apache-2.0
"""The node in etcd: its record, and what it says of itself, attached to an etcd lease.

The lease is not revoked at the end: a worker that is restarted is back before it lapses, and
nothing of the node moves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Literal

from etcd.client import Etcd, EtcdError
from etcd.retry_pause import RetryPause
from scheduler.model.node import NodeRecord, NodeReport, NodeSpec
from scheduler.store import codec
from scheduler.store.documents import timestamp
from scheduler.store.keys import Keys

log = logging.getLogger("scheduler.worker")
TTL = 5  # seconds; the leader then waits two more before a silent node is down
INTERVAL = 1.5  # seconds between two heartbeats


async def keep_registered(
    etcd: Etcd,
    keys: Keys,
    report: NodeReport,
    more: Mapping[str, bytes],
    role: Literal["worker", "manager"] = "worker",
) -> None:
    """Be registered until cancelled; `more` keys live and end with the node's report."""
    pause, said = RetryPause(), ""
    while True:
        try:
            await _register(etcd, keys, report, role)
            lease = await etcd.grant(TTL)
            for key, value in more.items():
                await etcd.put(key, value, lease=lease)
            await etcd.put(keys.node_status(report.id), codec.encode(report), lease=lease)
            log.info("registered as %s (%s)", report.description.hostname, report.id)
            pause.reset()
            said = ""
            while await etcd.keep_alive(lease):  # noqa: ASYNC110 # etcd is asked each time
                await asyncio.sleep(INTERVAL)
            log.warning("this node was silent: its lease has lapsed; registering again")
        except EtcdError as error:
            if str(error) != said:
                log.warning("the node is not registered: %s; tasks go on", error)
            said = str(error)
            await pause.wait()


async def _register(
    etcd: Etcd, keys: Keys, report: NodeReport, role: Literal["worker", "manager"]
) -> None:
    """Make the node's record, where it has none."""
    key = keys.node(report.id)
    found, _ = await etcd.get(key)
    if found is None:
        now = timestamp()
        name = report.description.hostname
        spec = NodeSpec(name=name, role=role)
        record = NodeRecord(id=report.id, spec=spec, created_at=now, updated_at=now)
        await etcd.put_if(key, codec.encode(record), mod_revision=0)
