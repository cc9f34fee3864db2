# SPDX-License-Identifier: Apache-2.0
"""What another cluster config would change, for people: before it is written. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from agent.cluster_config.check import without_effect
from ipam.lease import Lease
from ipam.network import NetworkConfig, document
from ipam.subnet_allocator import fits, successor

SECRET = frozenset({"psk"})
"""Keys whose values are not shown."""


def changes(
    before: NetworkConfig | None, after: NetworkConfig, leases: Mapping[str, Lease]
) -> list[str]:
    """The keys that differ, defaults included; then what happens on each host that has a lease."""
    keys = _keys({} if before is None else document(before), document(after))
    lines = [*keys, *_without_effect(after)]
    if before is not None and not keys:
        return [*lines, "nothing changes"]
    if before is not None and before.backend_type != after.backend_type:
        lines.append(
            f"all hosts: backend {after.backend_type} instead of {before.backend_type}; hosts that "
            "have not changed yet don't reach those that have"
        )
    elif before is not None and before.backend != after.backend:
        lines.append(
            f"all hosts: {after.backend_type} is set up anew; packets may be lost meanwhile"
        )
    if before is not None and _mtu(before) != _mtu(after):
        lines.append("all hosts: new pods get another MTU, pods that run keep theirs")
    return lines + [_host(lease, after) for _, lease in sorted(leases.items())]


def _keys(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if name == "Backend":
            lines += _keys(_mapping(old), _mapping(new), "Backend.")
        elif old is None:
            lines.append(f"+ {prefix}{name}: {_text(name, new)}")
        elif new is None:
            lines.append(f"- {prefix}{name}: {_text(name, old)}")
        else:
            lines.append(f"~ {prefix}{name}: {_text(name, old)} -> {_text(name, new)}")
    return lines


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(name: str, value: object) -> str:
    return "(secret)" if name.lower() in SECRET else json.dumps(value)


def _mtu(config: NetworkConfig) -> tuple[str, object]:
    return config.backend_type, config.options.value("MTU")


def _without_effect(config: NetworkConfig) -> Iterable[str]:
    return (f"! Backend.{name} is no key: it has no effect" for name in without_effect(config))


def _host(lease: Lease, after: NetworkConfig) -> str:
    address = lease.attributes.public_ip or lease.attributes.public_ipv6
    subnets = ", ".join(map(str, lease.subnets))
    if lease.reserved:
        kept = "is no longer of any use" if not fits(after, *_pair(lease)) else "stays reserved"
        return f"host {address}: {subnets} {kept}"
    if fits(after, *_pair(lease)):
        return f"host {address}: keeps {subnets}"
    following = successor(lease, after)
    if following is not None:
        return f"host {address}: {subnets} becomes {', '.join(map(str, following.subnets))}"
    return (
        f"host {address}: {subnets} is outside; its pods keep it until flatmeshd starts again "
        "there, and other hosts don't serve it"
    )


def _pair(lease: Lease) -> tuple[Any, Any]:
    return lease.subnet, lease.ipv6_subnet
