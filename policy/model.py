# SPDX-License-Identifier: Apache-2.0
"""What a network policy says, and what is known of pods and namespaces: values.

The meaning is that of Kubernetes' networking.k8s.io/v1 NetworkPolicy (kubernetes.io/docs, "Network
Policies"): pods that no policy selects are open; a pod that one selects for a direction lets
through, in this direction, only what some rule of some policy that selects it allows. Nothing here
is of Kubernetes' API, so that other sources of labels and policies fit, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
Labels = Mapping[str, str]
PROTOCOLS = ("tcp", "udp", "sctp")
MAX_PORT = 65535


class Requirement(NamedTuple):
    """One condition on labels: `tier in (web, api)`, `!debug`."""

    key: str
    operator: str
    """In, NotIn, Exists or DoesNotExist."""
    values: frozenset[str] = frozenset()

    def holds(self, labels: Labels) -> bool:
        """Whether labels meet it. As in Kubernetes, NotIn holds where the label is missing."""
        value = labels.get(self.key)
        if self.operator == "In":
            return value in self.values
        if self.operator == "NotIn":
            return value not in self.values
        return (value is not None) == (self.operator == "Exists")


class Selector(NamedTuple):
    """Conditions that all hold; without any it selects everything."""

    labels: tuple[tuple[str, str], ...] = ()
    """Labels that must have these values, sorted."""
    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Whether it selects what has these labels."""
        get = labels.get
        return all(get(key) == value for key, value in self.labels) and all(
            one.holds(labels) for one in self.requirements
        )


EVERYTHING = Selector()


class PodGroup(NamedTuple):
    """Pods as peers: by their labels, in one namespace or in those that a selector selects."""

    pods: Selector
    namespace: str = ""
    """The policy's own; empty: `namespaces` tells."""
    namespaces: Selector = EVERYTHING


class Block(NamedTuple):
    """A network as a peer, less parts of it."""

    network: IPNetwork
    excepts: tuple[IPNetwork, ...] = ()


class Ports(NamedTuple):
    """Destination ports of one protocol: a range, or those that pods call so."""

    protocol: str
    first: int = 0
    last: int = MAX_PORT
    name: str = ""
    """Of a container's port; the numbers are of no meaning then."""

    @property
    def all(self) -> bool:
        """Whether it is every port of the protocol."""
        return not self.name and self.first <= 1 and self.last == MAX_PORT


class Rule(NamedTuple):
    """What is allowed: to or from any of the peers, on any of the ports."""

    peers: tuple[PodGroup | Block, ...] | None = None
    """None: everybody; an empty row is nobody."""
    ports: tuple[Ports, ...] | None = None
    """None: every port and protocol."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy."""

    namespace: str
    name: str
    subjects: Selector
    ingress: tuple[Rule, ...] | None = None
    """None: it says nothing about what its pods receive."""
    egress: tuple[Rule, ...] | None = None

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    def rules(self, direction: str) -> tuple[Rule, ...] | None:
        """Those for `ingress` or `egress`."""
        return self.ingress if direction == "ingress" else self.egress


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod that runs, or may run any moment."""

    namespace: str
    name: str
    labels: Labels = field(default_factory=dict, hash=False)
    addresses: tuple[IPAddress, ...] = ()
    """Its own; none for a pod on its host's network."""
    node: str = ""
    ports: tuple[tuple[str, str, int], ...] = ()
    """Name, protocol and number of the ports that have a name."""

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace's labels."""

    name: str
    labels: Labels = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class PolicyChanges:
    """What a source has to tell: each by its key as it is now; None: gone."""

    policies: Mapping[str, Policy | None] = field(default_factory=dict)
    pods: Mapping[str, Pod | None] = field(default_factory=dict)
    namespaces: Mapping[str, Namespace | None] = field(default_factory=dict)
    whole: bool = False
    """Whether what is not named is gone: the first of a source that was opened."""
