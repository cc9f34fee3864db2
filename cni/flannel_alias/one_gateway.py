# SPDX-License-Identifier: Apache-2.0
"""Refuses to call the reference bridge plugin while another device has the gateway's address.

That plugin does not look; with two devices in one subnet the pods of one of them are not reached.
"""

from __future__ import annotations

from cni import cidr
from cni.address_pool import read_subnet_env
from cni.config.flannel_config import parse_flannel_config
from cni.config.request import CniRequest
from cni.host import PluginHost
from cni.other_gateway import require_no_other_gateway
from hostnet.netlink.socket import NetlinkSocket


def require_one_gateway(request: CniRequest, host: PluginHost, bridge: str) -> None:
    """Raise CniError (100) when a device beside the bridge has an address of the lease."""
    env = read_subnet_env(parse_flannel_config(request).subnet_file or host.subnet_file)
    interfaces = [one for one in (env.subnet, env.ipv6_subnet) if one is not None]
    with NetlinkSocket() as sock:
        gateways = [cidr.parse_cidr(str(one)) for one in interfaces]
        require_no_other_gateway(sock, bridge, gateways)
