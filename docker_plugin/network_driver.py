# SPDX-License-Identifier: Apache-2.0
"""`NetworkDriver.*`: containers as ports of this host's bridge, like pods.

Nothing is stored of a network: all of Docker's networks with this driver are the flat network. An
endpoint is recorded at CreateEndpoint, and made at Join, where dockerd takes its other end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from cni.address_pool import read_subnet_env
from cni.attachment.lock import hold_lock
from cni.attachment.store import AttachmentStore
from cni.config.call import AttachmentKey
from cni.host import PluginHost
from cni.pod.attach_mode import AttachMode
from cni.pod.naming import DOCKER
from cni.pod.removal import Removal, detach, with_record
from cni.result.model import ResultAddress
from docker_plugin import endpoint as endpoints
from docker_plugin import lease_pool, records
from docker_plugin.endpoint import Endpoint
from docker_plugin.published_ports import PublishedPorts
from docker_plugin.request import Call, DockerCallError

GENERIC = "com.docker.network.generic"
INTERNAL = "com.docker.network.internal"
PORT_MAP = "com.docker.network.portmap"
NEXT_HOP = 0
"""RouteType of a route by a gateway (libnetwork, types.NEXTHOP)."""
Answer = dict[str, Any]


class NetworkDriver(NamedTuple):
    """The calls of one host. Any thread may use it."""

    host: PluginHost
    ports: PublishedPorts

    def capabilities(self, call: Call) -> Answer:
        """A network is created on each host; its containers reach those of all hosts."""
        del call
        return {"Scope": "local", "ConnectivityScope": "global"}

    def create_network(self, call: Call) -> Answer:
        """Refuse what can't be had. Raises DockerCallError, CniError (50)."""
        call.identifier("NetworkID")
        options = call.object("Options")
        if options.flag(INTERNAL):
            raise DockerCallError("--internal: the flat network reaches every pod; leave it out")
        generic = options.fields.value(GENERIC) or {}
        if not isinstance(generic, dict) or generic:
            names = ", ".join(sorted(generic)) if isinstance(generic, dict) else GENERIC
            raise DockerCallError(f"driver option {names[:200]}: there is none of that name")
        for data in (*call.objects("IPv4Data"), *call.objects("IPv6Data")):
            pool = data.network("Pool")
            if pool is None:
                continue
            own = lease_pool.own_range(pool.family, self.host).subnet
            if pool.length and pool != own:
                raise DockerCallError(
                    f"pool {pool} is not this host's lease, {own}: add --ipam-driver flatmesh"
                )
            if data.fields.value("AuxAddresses"):
                raise DockerCallError("--aux-address: no address can be kept back; leave it out")
        return {}

    def nothing(self, call: Call) -> Answer:
        """Calls that there is nothing to do for."""
        del call
        return {}

    def create_endpoint(self, call: Call) -> Answer:
        """Record an endpoint. Raises DockerCallError, CniError."""
        network, identifier = call.identifier("NetworkID"), call.identifier("EndpointID")
        interface = call.object("Interface")
        given = [interface.interface("Address"), interface.interface("AddressIPv6")]
        ips = tuple(ResultAddress(str(one)) for one in given if one is not None)
        if not ips:
            raise DockerCallError("the endpoint has no address: add --ipam-driver flatmesh")
        store = AttachmentStore(self.host)
        for ip in ips:
            if records.address_record(store, ip.address.partition("/")[0]) is None:
                raise DockerCallError(
                    f"address {ip.address} is not from this driver: add --ipam-driver flatmesh"
                )
        asked = interface.mac("MacAddress")
        endpoint = Endpoint(identifier, network, ips, asked or endpoints.usual_mac(ips))
        to_bridge = AttachMode.read(self.host.run_dir).to_bridge
        with self._locked(identifier):
            endpoints.begin(endpoint, store, to_bridge=to_bridge)
        return {"Interface": {} if asked else {"MacAddress": endpoint.mac}}

    def join(self, call: Call) -> Answer:
        """Make the veth pair. Raises DockerCallError, CniError, NetlinkError, OSError."""
        identifier = call.identifier("EndpointID")
        store, host = AttachmentStore(self.host), self.host
        with self._locked(identifier) as key:
            record = store.find(key)
            if record is None:
                raise DockerCallError(
                    f"endpoint {identifier} is not recorded, as after a reboot: start the "
                    "container again"
                )
            endpoint = Endpoint.recorded(record)
            if record.ready:  # dockerd was killed before it had the answer
                detach(Removal(key, record), store, host)
            try:
                endpoints.connect(endpoint, store, host)
            except BaseException as failure:
                try:
                    detach(Removal(key, store.find(key)), store, host)
                except Exception as error:  # noqa: BLE001 - the first failure is the one to report
                    failure.add_note(f"and undoing it failed too: {error}")
                raise
        host.pods_changed()
        return self._joined(endpoint)

    def _joined(self, endpoint: Endpoint) -> Answer:
        """What dockerd does with the other end.

        The routes lead to all pods also where another network of the container has its default
        route.
        """
        env = read_subnet_env(self.host.subnet_file)
        gateways = {family: endpoints.gateway_of(endpoint.ips, family) for family in (4, 6)}
        routes = [
            {"Destination": str(network), "RouteType": NEXT_HOP, "NextHop": gateways[version]}
            for version, networks in ((4, env.networks), (6, env.ipv6_networks))
            for network in networks
            if gateways[version]
        ]
        return {
            "InterfaceName": {"SrcName": endpoint.container_end, "DstPrefix": records.ENDPOINT},
            "Gateway": gateways[4],
            "GatewayIPv6": gateways[6],
            "StaticRoutes": routes,
        }

    def publish(self, call: Call) -> Answer:
        """Publish a container's ports. Raises DockerCallError, CniError, NftError.

        Called after Join for the network that the container's default route is on.
        """
        asked = call.object("Options").objects(PORT_MAP)
        if asked:
            self.ports.publish(call.identifier("EndpointID"), asked)
        return {}

    def withdraw(self, call: Call) -> Answer:
        """Publish them no more. Raises CniError, NftError."""
        self.ports.withdraw(call.identifier("EndpointID"))
        return {}

    def endpoint_info(self, call: Call) -> Answer:
        """What `docker network inspect` shows of an endpoint beside its addresses."""
        record = AttachmentStore(self.host).find(
            records.endpoint_key(call.identifier("EndpointID"))
        )
        name = record.host_ifname if record is not None else ""
        return {"Value": {"com.docker.network.endpoint.ifname": name} if name else {}}

    def delete_endpoint(self, call: Call) -> Answer:
        """Remove an endpoint; one that is not there is no error. Raises CniError."""
        store = AttachmentStore(self.host)
        with self._locked(call.identifier("EndpointID")) as key:
            detach(with_record(Removal(key, None), store, self.host), store, self.host)
        self.ports.restore()
        self.host.pods_changed()
        return {}

    @contextlib.contextmanager
    def _locked(self, identifier: str) -> Iterator[AttachmentKey]:
        key = records.endpoint_key(identifier)
        with hold_lock(self.host, DOCKER, key):
            yield key
