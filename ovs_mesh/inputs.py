# SPDX-License-Identifier: Apache-2.0
"""What the flows of obr0 are built from: this host, its pods, its peers. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.isolation import Isolation
from ovs_mesh.config import IPNetwork, OvsConfig
from ovs_mesh.topology import Peer, shared_port


@dataclass(frozen=True, slots=True)
class PodPort:
    """A pod: its identity, and where it is attached."""

    mac: str
    addresses: tuple[str, ...]
    """Without prefix length."""
    ofport: int | None = None
    """Its port of obr0; None: it is a port of the Linux bridge kbr0."""
    checked: bool = True
    """Whether it may send from its own addresses only (`spoofCheck` of its network)."""
    on_kbr0: bool = False
    """Whether it is a port of kbr0: not of obr0, nor of another bridge."""


@dataclass(frozen=True, slots=True)
class HostSide:
    """This host as obr0 sees it."""

    gateway_port: int | str
    """OpenFlow port that leads to kbr0, or LOCAL, where pods are ports of obr0."""
    gateway_mac: str
    gateways: tuple[str, ...]
    """The gateway addresses, without prefix length."""
    subnets: tuple[IPNetwork, ...]
    sources: tuple[str, ...]
    """Underlay addresses of this host: it may send from them, too."""
    pods: tuple[PodPort, ...] = ()
    on_switch: bool = False
    """Whether pods are ports of obr0."""
    answers_nd: bool = True
    """Whether the datapath can make an advertisement of a solicitation."""
    isolation: Isolation | None = None
    """What pods may send and receive; None: no network policies are enforced here."""

    @property
    def macs(self) -> list[str]:
        """The MACs of this host and its pods."""
        return sorted({self.gateway_mac, *(pod.mac for pod in self.pods)})


@dataclass(frozen=True, slots=True)
class HostInputs:
    """What the flows of this host may depend on."""

    config: OvsConfig
    host: HostSide
    peers: Sequence[Peer]
    """Those whose tunnel port is open."""
    ofports: Mapping[str, int]
    """OpenFlow port numbers of obr0's ports by name."""

    @property
    def shared_port(self) -> int | None:
        """The tunnel port that serves many peers; None in a static mesh, or while it is closed."""
        return None if self.config.mesh == "static" else self.ofports.get(shared_port(self.config))


@dataclass(frozen=True, slots=True)
class PeerInputs:
    """What the flows of a peer may depend on beside the peer and its port.

    Flows are kept from one reconcile to the next while this is equal. So what changes often,
    such as the list of pods, does not belong here.
    """

    mesh: str
    spanning_tree: str
    subnets: tuple[IPNetwork, ...]
    gateway_mac: str
