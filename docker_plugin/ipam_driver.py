# SPDX-License-Identifier: Apache-2.0
"""`IpamDriver.*`: addresses of this host's lease, from the store that pods' come from.

No two of Docker's networks, and no pod, get one address. What Docker holds stays held when dockerd
or this daemon is restarted; a reboot frees it, as it frees pods'.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

from cni import cidr
from cni.address_pool import AddressPool
from cni.attachment.store import AttachmentStore
from cni.config.call import AttachmentKey
from cni.errors import NO_ADDRESS, CniError
from cni.host import PluginHost
from cni.pod.collect import sweep as sweep_pods
from cni.pod.naming import DOCKER, DOCKER_NETWORK
from docker_plugin import lease_pool, records
from docker_plugin.request import Call, DockerCallError
from docker_plugin.sweep import sweep

REQUEST_TYPE = "RequestAddressType"
GATEWAY = "com.docker.network.gateway"
SPACE = "flatmesh"
Answer = dict[str, Any]


class IpamDriver(NamedTuple):
    """The calls of one host. Any thread may use it."""

    host: PluginHost

    def capabilities(self, call: Call) -> Answer:
        """Addresses are on disk: dockerd need not ask for them again when it starts."""
        del call
        return {"RequiresMACAddress": False, "RequiresRequestReplay": False}

    def address_spaces(self, call: Call) -> Answer:
        """One for both scopes."""
        del call
        return {"LocalDefaultAddressSpace": SPACE, "GlobalDefaultAddressSpace": SPACE}

    def request_pool(self, call: Call) -> Answer:
        """The lease, whichever network asks. Raises DockerCallError, CniError (50).

        A pool that a network didn't ask for by name may overlap no route of the host, or dockerd
        asks for another one without end. The lease has a route, so it shows 0.0.0.0/0 instead.
        """
        part, asked = call.network("SubPool"), call.network("Pool")
        family = 6 if call.flag("V6") else 4
        pool = lease_pool.pool_for(asked, part, family, self.host)
        shown = pool.whole.subnet if asked is not None else cidr.default_network(family)
        return {
            "PoolID": pool.identifier,
            "Pool": str(shown),
            "Data": {GATEWAY: pool.gateway},
        }

    def release_pool(self, call: Call) -> Answer:
        """Nothing is held for a pool."""
        del call
        return {}

    def request_address(self, call: Call) -> Answer:
        """Reserve an address. Raises DockerCallError, CniError (5, 50, 101)."""
        pool = lease_pool.pool_of(call.text("PoolID"), self.host)
        requested = call.address("Address")
        if call.object("Options").text(REQUEST_TYPE) == GATEWAY:
            own = pool.whole.family, pool.whole.gateway
            if requested not in (None, own):
                raise DockerCallError(f"the gateway is {pool.whole.gateway_text()}: leave it out")
            return {"Address": pool.gateway, "Data": {}}
        ip = self._reserve(pool.pool(requested, self.host))
        return {"Address": ip, "Data": {}}

    def _reserve(self, pool: AddressPool) -> str:
        store = AttachmentStore(self.host)
        key = AttachmentKey(DOCKER_NETWORK, secrets.token_hex(16), records.ADDRESS)
        metadata = {"plugin": DOCKER, records.SINCE: records.now()}
        try:
            begun = store.begin("", key, pool, metadata)
        except CniError as error:
            swept = error.code == NO_ADDRESS and [*sweep(self.host), *sweep_pods(self.host)]
            if not swept:
                raise
            begun = store.begin("", key, pool, metadata)
        store.finish(key, "", metadata)
        return begun.ips[0].address

    def release_address(self, call: Call) -> Answer:
        """Free an address; one that Docker does not hold, or never did, is no error."""
        address = call.address("Address")
        if address is not None:
            store = AttachmentStore(self.host)
            record = records.address_record(store, cidr.to_text(*address))
            if record is not None:
                store.forget(record.key, DOCKER)
        return {}
