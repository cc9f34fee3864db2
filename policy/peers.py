# SPDX-License-Identifier: Apache-2.0
"""The addresses of groups of pods, kept up as pods and namespaces change.

Only groups that some policy in force names are kept. A changed pod is compared with each group
once; no group looks at all pods again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from policy.model import IPAddress, Namespace, Pod, PodGroup

NO_LABELS: Mapping[str, str] = {}


@dataclass(slots=True)
class Cluster:
    """All pods and namespaces there are."""

    pods: dict[str, Pod] = field(default_factory=dict)
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    by_namespace: dict[str, dict[str, Pod]] = field(default_factory=dict)

    def take_pod(self, key: str, pod: Pod | None) -> Pod | None:
        """Take in a pod as it is now; returns what it was."""
        before = self.pods.pop(key, None)
        if before is not None:
            there = self.by_namespace[before.namespace]
            there.pop(key, None)
            if not there:
                del self.by_namespace[before.namespace]
        if pod is not None:
            self.pods[key] = pod
            self.by_namespace.setdefault(pod.namespace, {})[key] = pod
        return before

    def labels_of(self, namespace: str) -> Mapping[str, str]:
        """A namespace's labels; none while it is not known."""
        known = self.namespaces.get(namespace)
        return known.labels if known is not None else NO_LABELS

    def contains(self, group: PodGroup, pod: Pod) -> bool:
        """Whether a pod is of a group."""
        if group.namespace:
            return pod.namespace == group.namespace and group.pods.matches(pod.labels)
        if pod.namespace not in self.namespaces:
            return False
        labels = self.namespaces[pod.namespace].labels
        return group.namespaces.matches(labels) and group.pods.matches(pod.labels)

    def candidates(self, group: PodGroup) -> Iterable[Pod]:
        """Pods that may be of a group: those of its namespaces."""
        if group.namespace:
            return self.by_namespace.get(group.namespace, {}).values()
        return [
            pod
            for name, pods in self.by_namespace.items()
            if name in self.namespaces and group.namespaces.matches(self.labels_of(name))
            for pod in pods.values()
        ]


@dataclass(slots=True)
class GroupMembers:
    """One group's pods and their addresses."""

    members: dict[str, tuple[IPAddress, ...]] = field(default_factory=dict)
    counts: Counter[IPAddress] = field(default_factory=Counter)
    """Two pods may have one address for a moment: one that has ended, and one that began."""
    packed: dict[int, frozenset[bytes]] | None = None
    """By family, as elements of sets; None: to be made again."""

    def put(self, key: str, addresses: tuple[IPAddress, ...] | None) -> None:
        """Take in a member as it is now; None: it is none."""
        before = self.members.get(key)
        if before == addresses:
            return
        for one in before or ():
            self.counts[one] -= 1
            if not self.counts[one]:
                del self.counts[one]
        if addresses is None:
            del self.members[key]
        else:
            self.members[key] = addresses
            self.counts.update(addresses)
        self.packed = None

    def elements(self, family: int) -> frozenset[bytes]:
        """The addresses of a family, packed."""
        if self.packed is None:
            self.packed = {
                f: frozenset(one.packed for one in self.counts if one.version == f) for f in (4, 6)
            }
        return self.packed[family]


@dataclass(slots=True)
class PeerGroups:
    """The groups that policies in force name."""

    cluster: Cluster
    groups: dict[PodGroup, GroupMembers] = field(default_factory=dict)

    def keep(self, wanted: Collection[PodGroup]) -> None:
        """Keep these groups and no others."""
        for group in self.groups.keys() - wanted:
            del self.groups[group]
        for group in wanted:
            if group not in self.groups:
                self.groups[group] = self._members(group)

    def pod_changed(self, key: str) -> None:
        """A pod came, went or changed."""
        pod = self.cluster.pods.get(key)
        for group, members in self.groups.items():
            inside = pod is not None and self.cluster.contains(group, pod)
            if inside or key in members.members:
                members.put(key, pod.addresses if inside and pod is not None else None)

    def namespaces_changed(self, names: Collection[str]) -> None:
        """Namespaces came, went or have other labels."""
        for group in [one for one in self.groups if not one.namespace]:
            members = self.groups[group]
            for name in names:
                for key, pod in self.cluster.by_namespace.get(name, {}).items():
                    inside = self.cluster.contains(group, pod)
                    if inside or key in members.members:
                        members.put(key, pod.addresses if inside else None)

    def _members(self, group: PodGroup) -> GroupMembers:
        found = GroupMembers()
        for pod in self.cluster.candidates(group):
            if group.pods.matches(pod.labels):
                found.put(pod.key, pod.addresses)
        return found
