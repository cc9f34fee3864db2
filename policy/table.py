# SPDX-License-Identifier: Apache-2.0
"""All policies that concern this host's pods, as one table of nftables.

    egress, ingress        every forwarded packet (`policy.base_chains`)
      ip daddr vmap @ingress4      the pod's verdict: accept, or goto the chain of its policies
    pods_ingress_77d0..    of the pods that the same policies select: each of these, then refused
      jump ingress_4be1..  of one policy (`policy.rules`)
      goto refused_ingress

So a packet costs one look-up where its pod is open, and the rules of the pod's own policies where
it is isolated, however many policies and pods there are. A changed label is some elements of sets;
a changed policy is its own chains.

Nothing here touches the kernel: `PolicyTable.wanted` says what should be there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from backend.isolation import Isolation
from hostnet.nft.chain_messages import Verdict
from hostnet.nft.chain_table import ChainTable, VerdictMap
from hostnet.nft.datatypes import pack
from hostnet.nft.expressions import NftRule, rule, verdict
from hostnet.nft.sets import NftSet
from hostnet.ownership import POLICY_TABLE
from policy.base_chains import (
    COUNTERS,
    DIRECTIONS,
    PRIORITIES,
    PodNetwork,
    base_chains,
    map_name,
)
from policy.isolation import SelectedPods, isolation
from policy.model import IPAddress, Pod, PodGroup, Policy, PolicyChanges
from policy.names import group_set, named_set, profile_chain, self_set
from policy.peers import Cluster, PeerGroups
from policy.rules import PolicyChains, policy_chains

NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}
Attached = Mapping[IPAddress, str]
"""Addresses of pods that were made on this host: the pod's key; empty for one that is no pod of the
source's, which no policy selects."""


@dataclass(slots=True)
class PolicyTable:
    """What is known, and the table that follows from it. For one thread at a time."""

    node: str
    network: PodNetwork = field(default_factory=PodNetwork)
    problems: dict[str, str] = field(default_factory=dict)
    """By policy, what of it is not as it was meant."""
    ended: dict[str, Pod] = field(default_factory=dict)
    """Pods that the source no longer tells of, while their networks here are not taken away: they
    are nobody's peers, but their policies hold on."""
    _cluster: Cluster = field(default_factory=Cluster)
    _policies: dict[str, Policy] = field(default_factory=dict)
    _of_namespace: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    _attached: dict[IPAddress, str] = field(default_factory=dict)
    _made_here: dict[str, tuple[IPAddress, ...]] = field(default_factory=dict)
    """The same by pod."""
    _told: dict[str, Pod] = field(default_factory=dict)
    """Pods as the source told of them, where `attach` has added or taken addresses."""
    _holders: dict[IPAddress, set[str]] = field(default_factory=lambda: defaultdict(set))
    """The pods that the source tells an address of."""
    _local: dict[str, set[str]] = field(default_factory=dict)
    """Pods of this host: the policies that select each."""
    _peers: PeerGroups = field(init=False)
    _compiled: dict[tuple[str, str], tuple[Policy, PolicyChains]] = field(default_factory=dict)
    _ports: dict[tuple[str, str], Counter[tuple[IPAddress, int]]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    """By protocol and name, the pods' ports that have it."""
    _profiles: dict[str, tuple[NftRule, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nothing is known yet."""
        self._peers = PeerGroups(self._cluster)

    # -- what changes --------------------------------------------------------------------

    def take(self, changes: PolicyChanges) -> None:
        """Take in what a source tells."""
        if changes.whole:
            gone = PolicyChanges(
                dict.fromkeys(self._policies.keys() - changes.policies.keys()),
                dict.fromkeys(self._cluster.pods.keys() - changes.pods.keys()),
                dict.fromkeys(self._cluster.namespaces.keys() - changes.namespaces.keys()),
            )
            self.take(gone)
        for key, pod in changes.pods.items():
            self._take_pod(key, pod)
        for name, namespace in changes.namespaces.items():
            if namespace is None:
                self._cluster.namespaces.pop(name, None)
            else:
                self._cluster.namespaces[name] = namespace
        self._peers.namespaces_changed(changes.namespaces.keys())
        for key, policy in changes.policies.items():
            self._take_policy(key, policy)

    def attach(self, attached: Attached) -> None:
        """These are all addresses of pods that were made on this host."""
        if attached == self._attached:
            return
        changed = {one for one, _ in attached.items() ^ self._attached.items()}
        pods = {
            one[address] for one in (attached, self._attached) for address in changed & one.keys()
        }
        for address in changed:
            pods |= self._holders.get(address, set())
        self._attached = dict(attached)
        self._made_here = defaultdict(tuple)
        for address, key in attached.items():
            self._made_here[key] += (address,)
        for key in pods & self._cluster.pods.keys():
            self._take_pod(key, self._told.get(key, self._cluster.pods[key]))
        for key in self.ended.keys() - self._made_here.keys():
            del self.ended[key]
            self._select(key)

    def knows(self, key: str) -> bool:
        """Whether the source has told of a pod."""
        return key in self._cluster.pods

    def _take_pod(self, key: str, pod: Pod | None) -> None:
        self._hold(key, self._told.pop(key, None) or self._cluster.pods.get(key), pod)
        if pod is not None:
            told, pod = pod, self._with_addresses(pod)
            if pod is not told:
                self._told[key] = told
        before = self._cluster.take_pod(key, pod)
        if pod is not None:
            self.ended.pop(key, None)
        elif before is not None and key in self._made_here:
            self.ended[key] = before
        for one, step in ((before, -1), (pod, 1)):
            if one is not None:
                self._count_ports(one, step)
        self._peers.pod_changed(key)
        self._select(key)

    def _hold(self, key: str, before: Pod | None, now: Pod | None) -> None:
        """Who has an address, as the source tells it."""
        for address in before.addresses if before is not None else ():
            holders = self._holders[address]
            holders.discard(key)
            if not holders:
                del self._holders[address]
        for address in now.addresses if now is not None else ():
            self._holders[address].add(key)

    def _with_addresses(self, pod: Pod) -> Pod:
        """With the addresses that it was made with here, which the source hears of later.

        And without those that another pod has by now.
        """
        owner = self._attached
        kept = [one for one in pod.addresses if owner.get(one, pod.key) == pod.key]
        here = [one for one in self._made_here.get(pod.key, ()) if one not in kept]
        addresses = (*kept, *here)
        return pod if addresses == pod.addresses else replace(pod, addresses=addresses)

    def _count_ports(self, pod: Pod, step: int) -> None:
        for name, protocol, number in pod.ports:
            counter = self._ports[protocol, name]
            for address in pod.addresses:
                counter[address, number] += step
                if not counter[address, number]:
                    del counter[address, number]
            if not counter:
                del self._ports[protocol, name]

    def _take_policy(self, key: str, policy: Policy | None) -> None:
        before = self._policies.pop(key, None)
        if before is not None:
            self._of_namespace[before.namespace].discard(key)
            if not self._of_namespace[before.namespace]:
                del self._of_namespace[before.namespace]
        if policy is not None:
            self._policies[key] = policy
            self._of_namespace[policy.namespace].add(key)
        for pod_key, selected in self._local.items():
            pod = self._pod(pod_key)
            if policy is not None and pod is not None and _selects(policy, pod):
                selected.add(key)
            else:
                selected.discard(key)

    def _pod(self, key: str) -> Pod | None:
        return self._cluster.pods.get(key) or self.ended.get(key)

    def _select(self, key: str) -> None:
        """Find the policies of a pod, if it is one of this host."""
        pod = self._pod(key)
        local = pod is not None and (pod.node == self.node or key in self._made_here)
        if pod is None or not local:
            self._local.pop(key, None)
            return
        there = self._of_namespace.get(pod.namespace, ())
        self._local[key] = {one for one in there if _selects(self._policies[one], pod)}

    def isolation(self) -> Isolation:
        """The same without chains and sets, as of the last `wanted`."""
        by_policy: dict[tuple[str, str], set[IPAddress]] = defaultdict(set)
        closed = set()
        for address, key in self._owners().items():
            if key and key not in self._local:
                closed.add(address)
            for one in self._local.get(key, ()):
                for direction in DIRECTIONS:
                    if self._policies[one].rules(direction) is not None:
                        by_policy[one, direction].add(address)
        selected = SelectedPods(by_policy, self._policies, self._peers, self._ports, self.problems)
        return isolation(selected, closed)

    # -- what follows --------------------------------------------------------------------

    def wanted(self) -> ChainTable:
        """The table."""
        chains: dict[str, tuple[NftRule, ...]] = {}
        in_force: dict[tuple[str, str], PolicyChains] = {}
        maps = {map_name(d, f): VerdictMap(f"ipv{f}_addr", {}) for d in DIRECTIONS for f in (4, 6)}
        isolated: set[IPAddress] = set()
        verdicts: dict[str, dict[bytes, Verdict]] = {name: {} for name in maps}
        for address, key in self._owners().items():
            for direction in DIRECTIONS:
                said = self._verdict(key, direction, chains, in_force)
                verdicts[map_name(direction, address.version)][address.packed] = said
                if said.code != "accept":
                    isolated.add(address)
        for one in in_force.values():
            chains |= one.chains
        self._compiled = {k: v for k, v in self._compiled.items() if k in in_force}
        self._profiles = {k: v for k, v in self._profiles.items() if k in chains}
        self.problems = {key: one.problem for (key, _), one in in_force.items() if one.problem}
        chains |= base_chains(self.network, isolated=bool(isolated))
        return ChainTable(
            "inet",
            POLICY_TABLE,
            chains,
            PRIORITIES,
            self._sets(in_force.values(), isolated),
            {name: VerdictMap(one.key, verdicts[name]) for name, one in maps.items()},
            frozenset(COUNTERS.values()),
        )

    def _owners(self) -> dict[IPAddress, str]:
        """Addresses of this host's pods; one that was made here is nobody else's."""
        local = sorted(self._local)  # of two pods that claim one address the same has it always
        known = self._cluster.pods
        found = {a: key for key in local if key in known for a in known[key].addresses}
        return found | self._attached

    def _verdict(
        self,
        key: str,
        direction: str,
        chains: dict[str, tuple[NftRule, ...]],
        in_force: dict[tuple[str, str], PolicyChains],
    ) -> Verdict:
        if not key:
            return Verdict("accept")
        selected = self._local.get(key)
        if selected is None:  # nothing is known of it yet
            return Verdict("goto", COUNTERS[direction])
        names = []
        for one in sorted(selected):
            if self._policies[one].rules(direction) is not None:
                in_force[one, direction] = compiled = self._compile(one, direction)
                names.append(compiled.name)
        if not names:
            return Verdict("accept")
        name = profile_chain(direction, names)
        if name not in self._profiles:
            last = rule(verdict("goto", COUNTERS[direction]))
            self._profiles[name] = (*(rule(verdict("jump", one)) for one in names), last)
        chains[name] = self._profiles[name]
        return Verdict("goto", name)

    def _compile(self, key: str, direction: str) -> PolicyChains:
        policy = self._policies[key]
        there = self._compiled.get((key, direction))
        if there is None or there[0] is not policy:
            there = policy, policy_chains(policy, direction)
            self._compiled[key, direction] = there
        return there[1]

    def _sets(
        self, in_force: Iterable[PolicyChains], isolated: Iterable[IPAddress]
    ) -> dict[NftSet, frozenset[bytes]]:
        groups: set[PodGroup] = set()
        named: set[tuple[str, str]] = set()
        for one in in_force:
            groups |= one.groups
            named |= one.named
        self._peers.keep(groups)
        found: dict[NftSet, frozenset[bytes]] = {}
        for family in (4, 6):
            found[self_set(family)] = frozenset(
                one.packed * 2 for one in isolated if one.version == family
            )
            for group in groups:
                elements = self._peers.groups[group].elements(family)
                found[group_set(group, family)] = elements
            for protocol, name in named:
                of = named_set(protocol, name, family)
                found[of] = frozenset(
                    pack(of.types, address.packed, bytes((NUMBERS[protocol],)), port)
                    for (address, number) in self._ports.get((protocol, name), ())
                    if address.version == family
                    for port in (number.to_bytes(2, "big"),)
                )
        return found


def _selects(policy: Policy, pod: Pod) -> bool:
    return policy.namespace == pod.namespace and policy.subjects.matches(pod.labels)
