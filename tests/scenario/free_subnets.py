# SPDX-License-Identifier: Apache-2.0
"""Subnets of a lab's network that none of its hosts holds, for tests that claim one themselves.

Hosts lease at random: a subnet that a test writes down is one of theirs in one run of a hundred.
"""

from __future__ import annotations

from ipaddress import ip_network

from lab.cluster import Lab

PREFIX_LENGTH = 24  # of a host's subnet in labs that don't say another


def free_subnets(lab: Lab, count: int) -> list[str]:
    """Return `count` subnets such as `10.5.250.0/24`, in descending order.

    All hosts of the lab must hold their leases. The network's first subnet is never one of these:
    hosts lease from the second on, so that tests send to the first as to nobody's.
    """
    held = {ip_network(lab.subnet(number)) for number in lab.host_numbers}
    every = list(ip_network(lab.spec.network).subnets(new_prefix=PREFIX_LENGTH))
    return [str(one) for one in reversed(every[1:]) if one not in held][:count]
