# SPDX-License-Identifier: Apache-2.0
"""The config that the `flannel` plugin calls its delegate with.

It is the config's `delegate` section, completed from the lease: MTU, masquerading, ranges and
routes for the IPAM plugin. (flannel-io/cni-plugin, README and flannel_linux.go, for keys and
defaults.)
"""

from __future__ import annotations

from typing import Any

from cni.config.flannel_config import FlannelConfig
from cni.config.ipam_config import OWN_IPAM
from ipam.subnet_env import SubnetEnv

OF_HOST_LOCAL = ("ranges", "dataDir")
"""Keys that only host-local understands so."""
OWN_BRIDGE = "flatmesh"
"""`type` of our own plugin as a delegate."""


def delegate_config(
    config: FlannelConfig, env: SubnetEnv, *, own_bridge: bool, own_ipam: bool
) -> dict[str, Any]:
    """The delegate's config; with `own_bridge` our plugin is called instead of `bridge`.

    With `own_ipam` the addresses are from our store instead of host-local's: pods of the plugin
    `flatmesh` have theirs of the same subnet.
    """
    body: dict[str, Any] = {**config.delegate, "name": config.network}
    kind = body.setdefault("type", "bridge")
    body.setdefault("ipMasq", not env.ip_masq)
    body.setdefault("mtu", env.mtu)
    if kind == "bridge":
        body.setdefault("isGateway", True)
    body |= config.passed_on
    if kind == "bridge" and own_bridge:
        # our plugin's defaults for these two keys are not those of `bridge`
        body["type"] = OWN_BRIDGE
        body.setdefault("bridge", "cni0")
        body.setdefault("isDefaultGateway", False)
    ipam: dict[str, Any] = {"type": "host-local", **config.ipam}
    ours = own_ipam or body["type"] == OWN_BRIDGE
    if ours and ipam["type"] == "host-local":
        # our own store takes ranges and cluster routes from the lease itself
        ipam = {key: value for key, value in ipam.items() if key not in OF_HOST_LOCAL}
        body["ipam"] = {**ipam, "type": OWN_IPAM, "routes": list(config.routes)}
        if config.subnet_file is not None:
            body["subnetFile"] = str(config.subnet_file)
        return body
    subnets = [i.network for i in (env.subnet, env.ipv6_subnet) if i is not None]
    networks = (*env.networks, *env.ipv6_networks)
    body["ipam"] = {
        **ipam,
        "ranges": [[{"subnet": str(subnet)}] for subnet in subnets],
        "routes": [*config.routes, *({"dst": str(network)} for network in networks)],
    }
    return body
