"""From config to kernel objects, without a kernel: keys, ranges, routes, names, delegates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni import flannel_alias, ipam_config
from cni.handle import handle
from cni.host import Host
from cni.pod import bridge_config, wiring
from cni.pod.plugin import with_gateways
from cni.request import Call, Request, parse
from cni.result import Ip, Route
from hostnet.kinds.link import FoundLink
from ipam.subnet_env import SubnetEnv

LEASE = """FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.72.1/24
FLANNEL_IPV6_NETWORK=fd05::/48
FLANNEL_IPV6_SUBNET=fd05:0:0:48::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""
ADD = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/x", "CNI_IFNAME": "eth0"}
POD = (Ip("10.5.72.2/24", "10.5.72.1"), Ip("fd05:0:0:48::2/64", "fd05:0:0:48::1"))


def request(**conf: Any) -> Request:
    conf = {"cniVersion": "1.0.0", "name": "pods", "type": "flatmesh", **conf}
    return parse(Call("flatmesh", ADD, json.dumps(conf).encode()))


@pytest.fixture
def lease(tmp_path: Path) -> Path:
    path = tmp_path / "subnet.env"
    path.write_text(LEASE)
    return path


def test_the_two_line_config_means_a_gateway_on_kbr0() -> None:
    config = bridge_config.parse(request())
    assert (config.bridge, config.is_gateway, config.is_default_gateway) == ("kbr0", True, True)
    assert (config.ip_masq, config.hairpin, config.promisc, config.mtu) == (False, False, False, 0)
    assert config.container_interface_up


def test_a_default_gateway_is_a_gateway() -> None:
    assert bridge_config.parse(request(isGateway=False)).is_gateway
    config = bridge_config.parse(request(isGateway=False, isDefaultGateway=False))
    assert not config.is_gateway


def test_trunks_are_ranges() -> None:
    trunk = [{"minID": 20, "maxID": 22}, {"id": 7}]
    assert bridge_config.parse(request(vlanTrunk=trunk)).vlan_trunk == ((7, 7), (20, 22))


def test_without_ranges_the_lease_is_the_pool(lease: Path) -> None:
    pool = ipam_config.parse(request(), lease)
    (v4,), (v6,) = pool.sets
    assert (str(v4.subnet), v4.gateway_text()) == ("10.5.72.0/24", "10.5.72.1")
    assert not v4.holds(v4.gateway)
    assert v4.holds(v4.last)
    assert not v4.holds(v4.last + 1)  # the broadcast address
    assert str(v6.subnet) == "fd05:0:0:48::/64"
    assert pool.routes == (
        Route("10.5.0.0/16", "10.5.72.1"),
        Route("fd05::/48", "fd05:0:0:48::1"),
    )
    assert pool.name == ipam_config.LEASE_POOL


def test_ranges_of_the_lease_share_its_pool_and_others_have_their_own(lease: Path) -> None:
    def pool(subnet: str) -> str:
        ipam = {"type": "flatmesh-ipam", "ranges": [[{"subnet": subnet}]]}
        return ipam_config.parse(request(ipam=ipam), lease).name

    assert pool("10.5.72.128/25") == ipam_config.LEASE_POOL
    assert pool("10.9.0.0/24") == "pods"


def test_a_new_lease_is_read_though_the_old_one_was(lease: Path) -> None:
    assert str(ipam_config.read_subnet_env(lease).subnet) == "10.5.72.1/24"
    replacement = lease.with_name("new")
    replacement.write_text(LEASE.replace("10.5.72.1", "10.5.80.1"))
    replacement.rename(lease)
    assert str(ipam_config.read_subnet_env(lease).subnet) == "10.5.80.1/24"


def test_gateways_and_default_routes_are_filled_in() -> None:
    config = bridge_config.parse(request())
    ips, routes = with_gateways((Ip("10.9.0.7/24"),), (), config)
    assert ips == (Ip("10.9.0.7/24", "10.9.0.1"),)
    assert routes == (Route("0.0.0.0/0", "10.9.0.1"),)
    own = (Route("0.0.0.0/0", "10.9.0.254"),)
    assert with_gateways(ips, own, config)[1] == own


@pytest.mark.parametrize(
    ("route", "via", "onlink", "scope"),
    [
        (Route("0.0.0.0/0"), "10.5.72.1", False, 0),
        (Route("::/0"), "fd05:0:0:48::1", False, 0),
        (Route("10.9.0.0/16", "10.5.72.9"), "10.5.72.9", False, 0),
        (Route("10.9.0.0/16", "192.0.2.1"), "192.0.2.1", True, 0),
        (Route("::/0", "fe80::1"), "fe80::1", False, 0),
        (Route("10.9.0.0/16", scope=253), None, False, 253),
    ],
)
def test_routes_as_the_kernel_gets_them(
    route: Route, via: str | None, onlink: bool, scope: int
) -> None:
    made = wiring.kernel_route(route, "eth0", POD)
    assert (made.via, made.onlink, made.scope) == (via, onlink, scope)


def test_a_pod_s_batch_brings_it_up_first() -> None:
    _, lines = wiring.pod_requests(FoundLink("eth0", 2), POD, (Route("0.0.0.0/0"),))
    assert lines == [
        "ip link set eth0 up",
        "ip addr add 10.5.72.2/24 dev eth0",
        "ip addr add fd05:0:0:48::2/64 dev eth0",
        "ip route add 0.0.0.0/0 via 10.5.72.1 dev eth0",
    ]


def test_names_and_macs_follow_from_the_attachment() -> None:
    name = wiring.host_name("pods", "c1", "eth0")
    assert name == wiring.host_name("pods", "c1", "eth0")
    assert len(name) == 15
    others = {wiring.host_name(*k) for k in (("a", "bc", "d"), ("ab", "c", "d"), ("a", "b", "cd"))}
    assert len(others) == 3
    assert wiring.mac_for(POD, "0a:58") == "0a:58:0a:05:48:02"
    assert wiring.mac_for(POD[1:], "0a:58") == wiring.mac_for(POD[1:], "0a:58")


def test_flannel_completes_the_delegate_as_the_meta_plugin_does() -> None:
    env = SubnetEnv.parse(LEASE)
    delegate = {"hairpinMode": True, "isDefaultGateway": True}
    conf = flannel_alias.delegate_conf(request(delegate=delegate), env, own_bridge=False)
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


def test_flannel_on_our_own_bridge_takes_from_the_lease() -> None:
    env = SubnetEnv.parse(LEASE)
    conf = flannel_alias.delegate_conf(request(), env, own_bridge=True)
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
    host = Host(directory, directory, directory / "no-subnet.env")
    call = Call(plugin, {**ADD, "CNI_COMMAND": command}, json.dumps(conf).encode())
    answer = handle(call, host)
    body = json.loads(answer.stdout)
    assert answer.status == 1
    assert "fault in flatmesh" not in body["msg"], body
    assert "\n" not in body["msg"]
