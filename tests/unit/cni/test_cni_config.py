# SPDX-License-Identifier: Apache-2.0
"""From config to kernel objects, without a kernel: keys, ranges, routes, names, delegates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni import address_pool
from cni.address_pool import AddressPool
from cni.config.bridge_config import parse_bridge_config
from cni.config.call import AttachmentKey, CniCall
from cni.config.flannel_config import parse_flannel_config
from cni.config.ipam_config import parse_own_ipam_config
from cni.config.pod_config import parse_pod_config
from cni.config.request import CniRequest, parse_request
from cni.errors import CniError
from cni.flannel_alias.delegate_config import delegate_config
from cni.handle import handle
from cni.host import PluginHost
from cni.pod.gateways import with_gateways
from cni.pod.naming import host_interface_name, mac_for
from cni.pod.pod_addresses import kernel_route, pod_requests
from cni.result.model import ResultAddress, ResultRoute
from hostnet.kinds.actual_link import ActualLink
from ipam.subnet_env import SubnetEnv

LEASE = """FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.72.1/24
FLANNEL_IPV6_NETWORK=fd05::/48
FLANNEL_IPV6_SUBNET=fd05:0:0:48::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""
ADD = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/x", "CNI_IFNAME": "eth0"}
POD = (
    ResultAddress("10.5.72.2/24", "10.5.72.1"),
    ResultAddress("fd05:0:0:48::2/64", "fd05:0:0:48::1"),
)


def request(**conf: Any) -> CniRequest:
    conf = {"cniVersion": "1.0.0", "name": "pods", "type": "flatmesh", **conf}
    return parse_request(CniCall("flatmesh", ADD, json.dumps(conf).encode()))


def test_a_config_is_read_once_for_all_pods_of_a_network(tmp_path: Path) -> None:
    first, second = request(mtu=1400), request(mtu=1400)
    assert parse_pod_config(first) is parse_pod_config(second)
    assert parse_pod_config(request(mtu=1300)).bridge.mtu == 1300
    asking = second._replace(arguments={"MAC": "02:00:00:00:00:07", "IP": "10.5.72.9"})
    asked = parse_pod_config(asking)
    assert asked.bridge.mac == "02:00:00:00:00:07"
    assert asked.own_ipam is not None
    assert asked.own_ipam.requested
    assert not parse_pod_config(second).bridge.mac
    for _ in range(2):
        with pytest.raises(CniError, match="mtu"):
            parse_pod_config(request(mtu=1))
    resolv = tmp_path / "resolv.conf"
    for server in ("192.0.2.1", "192.0.2.2"):  # a file may change
        resolv.write_text(f"nameserver {server}\n")
        ipam = {"type": "flatmesh-ipam", "resolvConf": str(resolv)}
        assert parse_pod_config(request(ipam=ipam)).dns.nameservers == (server,)


def resolve(lease: Path, **conf: Any) -> AddressPool:
    one = request(**conf)
    return address_pool.resolve_pool(parse_own_ipam_config(one), one, lease)


@pytest.fixture
def lease(tmp_path: Path) -> Path:
    path = tmp_path / "subnet.env"
    path.write_text(LEASE)
    return path


def test_the_two_line_config_means_a_gateway_on_kbr0() -> None:
    config = parse_bridge_config(request())
    assert (config.bridge, config.is_gateway, config.is_default_gateway) == ("kbr0", True, True)
    assert (config.ip_masq, config.hairpin, config.promisc, config.mtu) == (False, False, False, 0)
    assert config.container_interface_up


def test_a_default_gateway_is_a_gateway() -> None:
    assert parse_bridge_config(request(isGateway=False)).is_gateway
    config = parse_bridge_config(request(isGateway=False, isDefaultGateway=False))
    assert not config.is_gateway


def test_trunks_are_ranges() -> None:
    trunk = [{"minID": 20, "maxID": 22}, {"id": 7}]
    assert parse_bridge_config(request(vlanTrunk=trunk)).vlan_trunk == ((7, 7), (20, 22))


def test_without_ranges_the_lease_is_the_pool(lease: Path) -> None:
    pool = resolve(lease)
    (v4,), (v6,) = pool.sets
    assert (str(v4.subnet), v4.gateway_text()) == ("10.5.72.0/24", "10.5.72.1")
    assert not v4.holds(v4.gateway)
    assert v4.holds(v4.last)
    assert not v4.holds(v4.last + 1)  # the broadcast address
    assert str(v6.subnet) == "fd05:0:0:48::/64"
    assert pool.routes == (
        ResultRoute("10.5.0.0/16", "10.5.72.1"),
        ResultRoute("fd05::/48", "fd05:0:0:48::1"),
    )
    assert pool.name == address_pool.LEASE_POOL


def test_ranges_of_the_lease_share_its_pool_and_others_have_their_own(lease: Path) -> None:
    def pool(subnet: str) -> str:
        ipam = {"type": "flatmesh-ipam", "ranges": [[{"subnet": subnet}]]}
        return resolve(lease, ipam=ipam).name

    assert pool("10.5.72.128/25") == address_pool.LEASE_POOL
    assert pool("10.9.0.0/24") == "pods"


def test_a_new_lease_is_read_though_the_old_one_was(lease: Path) -> None:
    assert str(address_pool.read_subnet_env(lease).subnet) == "10.5.72.1/24"
    replacement = lease.with_name("new")
    replacement.write_text(LEASE.replace("10.5.72.1", "10.5.80.1"))
    replacement.rename(lease)
    assert str(address_pool.read_subnet_env(lease).subnet) == "10.5.80.1/24"


def test_gateways_and_default_routes_are_filled_in() -> None:
    config = parse_bridge_config(request())
    ips, routes = with_gateways((ResultAddress("10.9.0.7/24"),), (), config)
    assert ips == (ResultAddress("10.9.0.7/24", "10.9.0.1"),)
    assert routes == (ResultRoute("0.0.0.0/0", "10.9.0.1"),)
    own = (ResultRoute("0.0.0.0/0", "10.9.0.254"),)
    assert with_gateways(ips, own, config)[1] == own


@pytest.mark.parametrize(
    ("route", "via", "onlink", "scope"),
    [
        (ResultRoute("0.0.0.0/0"), "10.5.72.1", False, 0),
        (ResultRoute("::/0"), "fd05:0:0:48::1", False, 0),
        (ResultRoute("10.9.0.0/16", "10.5.72.9"), "10.5.72.9", False, 0),
        (ResultRoute("10.9.0.0/16", "192.0.2.1"), "192.0.2.1", True, 0),
        (ResultRoute("::/0", "fe80::1"), "fe80::1", False, 0),
        (ResultRoute("10.9.0.0/16", scope=253), None, False, 253),
    ],
)
def test_routes_as_the_kernel_gets_them(
    route: ResultRoute, via: str | None, onlink: bool, scope: int
) -> None:
    made = kernel_route(route, "eth0", POD)
    assert (made.via, made.onlink, made.scope) == (via, onlink, scope)


def test_a_pod_s_batch_brings_it_up_first() -> None:
    _, lines = pod_requests(ActualLink("eth0", 2), POD, (ResultRoute("0.0.0.0/0"),))
    assert lines == [
        "ip link set eth0 up",
        "ip addr add 10.5.72.2/24 dev eth0",
        "ip addr add fd05:0:0:48::2/64 dev eth0",
        "ip route add 0.0.0.0/0 via 10.5.72.1 dev eth0",
    ]


def test_names_and_macs_follow_from_the_attachment() -> None:
    name = host_interface_name(AttachmentKey("pods", "c1", "eth0"))
    assert name == host_interface_name(AttachmentKey("pods", "c1", "eth0"))
    assert len(name) == 15
    others = {
        host_interface_name(AttachmentKey(*k))
        for k in (("a", "bc", "d"), ("ab", "c", "d"), ("a", "b", "cd"))
    }
    assert len(others) == 3
    assert mac_for(POD, "0a:58") == "0a:58:0a:05:48:02"
    assert mac_for(POD[1:], "0a:58") == mac_for(POD[1:], "0a:58")


def test_flannel_completes_the_delegate_as_the_meta_plugin_does() -> None:
    env = SubnetEnv.parse(LEASE)
    delegate = {"hairpinMode": True, "isDefaultGateway": True}
    config = parse_flannel_config(request(delegate=delegate))
    conf = delegate_config(config, env, own_bridge=False, own_ipam=False)
    assert conf == {
        "cniVersion": "1.0.0",
        "name": "pods",
        "type": "bridge",
        "hairpinMode": True,
        "isDefaultGateway": True,
        "isGateway": True,
        "ipMasq": False,
        "mtu": 1450,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.5.72.0/24"}], [{"subnet": "fd05:0:0:48::/64"}]],
            "routes": [{"dst": "10.5.0.0/16"}, {"dst": "fd05::/48"}],
        },
    }


def test_flannel_takes_addresses_from_our_store_where_it_can() -> None:
    env = SubnetEnv.parse(LEASE)
    given = {"dataDir": "/var/lib/cni/other", "ranges": [[{"subnet": "10.9.0.0/24"}]]}
    config = parse_flannel_config(request(ipam=given, delegate={}))
    conf = delegate_config(config, env, own_bridge=False, own_ipam=True)
    assert conf["type"] == "bridge"
    assert conf["ipam"] == {"type": "flatmesh-ipam", "routes": []}
    config = parse_flannel_config(request(ipam={"type": "dhcp"}, delegate={}))
    conf = delegate_config(config, env, own_bridge=False, own_ipam=True)
    assert conf["ipam"]["type"] == "dhcp"


def test_flannel_on_our_own_bridge_takes_from_the_lease() -> None:
    env = SubnetEnv.parse(LEASE)
    config = parse_flannel_config(request())
    conf = delegate_config(config, env, own_bridge=True, own_ipam=False)
    assert (conf["type"], conf["bridge"], conf["isDefaultGateway"]) == ("flatmesh", "cni0", False)
    assert conf["ipam"] == {"type": "flatmesh-ipam", "routes": []}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "bridge",
        "mtu",
        "ipam",
        "vlan",
        "vlanTrunk",
        "hairpinMode",
        "dns",
        "prevResult",
        "runtimeConfig",
        "args",
        "subnetFile",
        "delegate",
        "dataDir",
        "cniVersion",
        "name",
        "cni.dev/valid-attachments",
    ]
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["flatmesh", "flatmesh-ipam", "flannel"]),
    st.sampled_from(["ADD", "CHECK"]),
    st.dictionaries(KEYS, JSON, max_size=3),
)
def test_every_bad_config_gets_an_error_object(
    tmp_path_factory: pytest.TempPathFactory, plugin: str, command: str, changes: dict[str, Any]
) -> None:
    """Whatever a config holds, the answer is an error object of the specification's codes."""
    conf = {"cniVersion": "1.0.0", "name": "pods", **changes}
    directory = tmp_path_factory.getbasetemp()
    conf = {**conf, "dataDir": conf.get("dataDir") or str(directory / "flannel")}
    host = PluginHost(directory, directory, directory / "no-subnet.env")
    call = CniCall(plugin, {**ADD, "CNI_COMMAND": command}, json.dumps(conf).encode())
    answer = handle(call, host)
    body = json.loads(answer.stdout)
    assert answer.status == 1
    assert "fault in flatmesh" not in body["msg"], body
    assert "\n" not in body["msg"]
