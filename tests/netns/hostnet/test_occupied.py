# SPDX-License-Identifier: Apache-2.0
"""What a host uses itself, as the kernel tells it."""

from __future__ import annotations

import subprocess

from hostnet.kernel import Kernel
from hostnet.occupied import read_occupied


def test_addresses_routes_and_gateways_of_the_host_and_none_of_ours(host: str) -> None:
    for command in (
        "route replace default via 192.168.64.99",
        "-6 route replace default via fd00:1::99",
        "route add 10.60.0.0/16 via 192.168.64.98",
        "route add 10.61.0.0/16 via 192.168.64.97 proto 102",
    ):
        subprocess.run(["ip", "-n", host, *command.split()], check=True)
    with Kernel(host) as kernel:
        found = {str(one.network): one.text for one in read_occupied(kernel)}
    assert found["192.168.64.99/32"] == "gateway 192.168.64.99 of a route"
    assert found["fd00:1::99/128"] == "gateway fd00:1::99 of a route"
    assert found["10.60.0.0/16"] == "route 10.60.0.0/16 via 192.168.64.98 dev eth0"
    assert "192.168.64.98/32" in found
    assert not {"10.61.0.0/16", "192.168.64.97/32", "0.0.0.0/0", "::/0"} & found.keys()
