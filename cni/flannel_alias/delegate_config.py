"""The config that the `flannel` plugin calls its delegate with.

It is the config's `delegate` section, completed from the lease: MTU, masquerading, ranges and
routes for the IPAM plugin. (flannel-io/cni-plugin, README and flannel_linux.go, for keys and
defaults.)
"""

from __future__ import annotations

from typing import Any

from cni.config.request import CniRequest
from cni.errors import INVALID_CONFIG, CniError
from ipam.subnet_env import SubnetEnv

OWN_BRIDGE = "flatmesh"
"""`type` of our own plugin as a delegate."""


def delegate_config(request: CniRequest, env: SubnetEnv, *, own_bridge: bool) -> dict[str, Any]:
    """The delegate's config; `own_bridge`: ours replaces `bridge`. Raises CniError (7)."""
    given = request.config
    section = given.section("delegate")
    config: dict[str, Any] = dict(section.raw) if section is not None else {}
    for key in ("name", "ipam"):
        if key in config:
            raise CniError(
                INVALID_CONFIG, f"delegate: must not hold {key!r}, which flannel fills in"
            )
    config["name"] = request.attachment.network
    kind = config.setdefault("type", "bridge")
    config.setdefault("ipMasq", not env.ip_masq)
    config.setdefault("mtu", env.mtu)
    if kind == "bridge":
        config.setdefault("isGateway", True)
    if given.value("cniVersion"):
        config["cniVersion"] = given.value("cniVersion")
    if given.value("runtimeConfig") is not None:
        config["runtimeConfig"] = given.value("runtimeConfig")
    if kind == "bridge" and own_bridge:
        # our plugin's defaults for these two keys are not those of `bridge`
        config["type"] = OWN_BRIDGE
        config.setdefault("bridge", "cni0")
        config.setdefault("isDefaultGateway", False)
    _add_ipam(config, request, env)
    return config


def _add_ipam(config: dict[str, Any], request: CniRequest, env: SubnetEnv) -> None:
    section = request.config.section("ipam")
    ipam: dict[str, Any] = dict(section.raw) if section is not None else {}
    ipam.setdefault("type", "host-local")
    routes = ipam.get("routes")
    if routes is not None and not isinstance(routes, list):
        raise CniError(INVALID_CONFIG, "ipam.routes: is not a list")
    own_routes = routes or []
    config["ipam"] = ipam
    if config["type"] == OWN_BRIDGE and ipam["type"] == "host-local":
        # our own store takes ranges and cluster routes from the lease itself
        ipam |= {"type": "flatmesh-ipam", "routes": own_routes}
        ipam.pop("ranges", None)
        if request.config.value("subnetFile"):
            config["subnetFile"] = request.config.value("subnetFile")
        return
    subnets = [i.network for i in (env.subnet, env.ipv6_subnet) if i is not None]
    networks = (*env.networks, *env.ipv6_networks)
    ipam["ranges"] = [[{"subnet": str(subnet)}] for subnet in subnets]
    ipam["routes"] = [*own_routes, *({"dst": str(network)} for network in networks)]
