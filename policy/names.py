# SPDX-License-Identifier: Apache-2.0
"""Names of sets and chains, which follow from what they hold.

So a set of the same pods is shared by all rules that name them, and a daemon that starts again
finds what it made before.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable

from hostnet.nft.sets import NftSet
from hostnet.ownership import POLICY_TABLE
from policy.model import PodGroup, Selector

MAX_COMMENT = 200  # bytes of a set's comment; nft(8) takes 254 at most


def digest(*parts: str) -> str:
    """A short hash of some text."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@functools.lru_cache(maxsize=8192)
def group_text(group: PodGroup) -> str:
    """A group in words, the same for equal groups."""
    where = group.namespace or f"namespaces {selector_text(group.namespaces)}"
    return f"{where}: {selector_text(group.pods)}"


def selector_text(selector: Selector) -> str:
    """`app=web,tier In (a b)`; `all` for one without conditions."""
    words = [f"{key}={value}" for key, value in selector.labels]
    words += [
        " ".join(
            (one.key, one.operator, *(f"({' '.join(sorted(one.values))})",) * bool(one.values))
        )
        for one in selector.requirements
    ]
    return ",".join(words) or "all"


@functools.lru_cache(maxsize=8192)
def group_set(group: PodGroup, family: int) -> NftSet:
    """The set of a group's addresses."""
    text = group_text(group)
    name = f"pods{family}_{digest(text)}"
    comment = text.encode()[:MAX_COMMENT].decode(errors="ignore")
    return NftSet("inet", POLICY_TABLE, name, (f"ipv{family}_addr",), comment=comment)


@functools.lru_cache(maxsize=1024)
def named_set(protocol: str, name: str, family: int) -> NftSet:
    """The set of pods' ports that have a name: address, protocol, number."""
    types = (f"ipv{family}_addr", "inet_proto", "inet_service")
    where = f"ports{family}_{digest(protocol, name)}"
    return NftSet("inet", POLICY_TABLE, where, types, comment=f"{protocol} {name}")


@functools.cache
def self_set(family: int) -> NftSet:
    """Pairs of equal addresses: what a pod sends to itself through a service."""
    address = f"ipv{family}_addr"
    return NftSet("inet", POLICY_TABLE, f"self{family}", (address, address))


def policy_chain(direction: str, key: str) -> str:
    """The chain of one policy's rules for a direction."""
    return f"{direction}_{digest(key)}"


def profile_chain(direction: str, chains: Iterable[str]) -> str:
    """The chain of the pods that just these policies select."""
    return f"pods_{direction}_{digest(*chains)}"
