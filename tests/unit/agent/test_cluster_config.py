# SPDX-License-Identifier: Apache-2.0
"""What is refused in a cluster config, what a change is previewed as, what is remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cluster_config.changes import changes
from agent.cluster_config.check import CHECKS, check_config, without_effect
from agent.cluster_config.choice import ConfigMemory
from docs import key_reader
from ipam.network import ConfigError, NetworkConfig, document, parse_config
from tests.unit.agent.agent_inputs import by_key, lease

PSK = "qZXBXw2wTWhMcLIIDSdm0vNRVhUzTJpwZQV2PUtLo0I="


def config(**keys: object) -> NetworkConfig:
    return parse_config(json.dumps({"Network": "10.5.0.0/16", **keys}))


def backend(kind: str, **options: object) -> NetworkConfig:
    return config(Backend={"Type": kind, **options})


@pytest.mark.parametrize("kind", CHECKS)
def test_each_backend_with_its_defaults_is_good(kind: str) -> None:
    check_config(backend(kind))


@pytest.mark.parametrize("kind", [kind for kind in CHECKS if kind != "host-gw"])
def test_the_known_keys_are_those_that_are_read(kind: str) -> None:
    flanneld = {"GBP", "MacPrefix"} if kind == "vxlan" else set()
    in_rules = {"CIDR"} if kind == "ovs" else set()
    assert {*CHECKS[kind].keys} - flanneld == key_reader.backend_keys(kind).keys() - in_rules


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ({"Type": "wiregaurd"}, "did you mean wireguard?"),
        ({"Type": "udpp"}, "did you mean udp?"),
        ({"Type": "ovss"}, "did you mean ovs?"),
        ({"Type": "quux"}, "use one of vxlan, host-gw, udp, wireguard, ovs"),
        ({"Type": "vxlan", "VIN": 7}, "Backend.VIN is no key; did you mean VNI?"),
        ({"Type": "vxlan", "VNI": 2**24}, "Backend.VNI is 16777216"),
        ({"Type": "vxlan", "VNI": "7"}, "a whole number"),
        ({"Type": "vxlan", "Port": 70000}, "from 0 to 65535"),
        ({"Type": "vxlan", "MTU": 100}, "at least 576"),
        ({"Type": "udp", "Port": -1}, "Backend.Port is -1"),
        ({"Type": "udp", "Que": 2}, "did you mean Queues?"),
        ({"Type": "wireguard", "PKS": PSK}, "did you mean PSK?"),
        ({"Type": "wireguard", "PSK": "secret"}, "`wg genpsk` makes one"),
        ({"Type": "wireguard", "ListenPrt": 1}, "did you mean ListenPort?"),
        ({"Type": "ovs", "Tunnel": "vxlann"}, "one of gre, vxlan, geneve"),
        (
            {"Type": "ovs", "Mesh": "combined", "Peers": [{"CIRD": "10.0.0.0/8"}]},
            "did you mean CIDR?",
        ),
    ],
)
def test_a_backend_that_no_host_may_follow(wanted: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_config(config(Backend=wanted))
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_misspelt_key_of_the_document_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Bakend is no key; did you mean Backend\?"):
        config(Bakend={"Type": "vxlan"})


def test_a_key_that_is_like_no_other_is_tolerated_and_told() -> None:
    there = backend("host-gw", Comment="from the year 2015")
    check_config(there)
    assert without_effect(there) == ["Comment"]


def test_no_backend_is_udp_only_where_there_was_none() -> None:
    check_config(config(), before=None)
    check_config(config(), before=config())
    check_config(backend("udp"), before=backend("vxlan"))
    for empty in (config(), config(Backend={}), config(Backend={"VNI": 1})):
        with pytest.raises(ConfigError, match="it was vxlan"):
            check_config(empty, before=backend("vxlan"))


def test_the_document_of_a_config_reads_as_the_config() -> None:
    both = config(
        EnableIPv6=True,
        IPv6Network="fd05::/48",
        SubnetLen=25,
        SubnetMin="10.5.4.0",
        IPMasq=False,
        OpenToPods=["etcd"],
        Backend={"Type": "VXLAN", "VNI": 7},
    )
    assert document(parse_config(json.dumps(document(both)))) == document(both)
    six = parse_config('{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd05::/48"}')
    again = parse_config(json.dumps(document(six)))
    assert (again.network, again.ipv6_network) == (None, six.ipv6_network)


def test_the_preview_has_the_keys_and_the_hosts() -> None:
    leases = by_key(lease(1), lease(2))
    lines = changes(backend("vxlan"), backend("wireguard", PSK=PSK), leases)
    assert '~ Backend.Type: "vxlan" -> "wireguard"' in lines
    assert "+ Backend.PSK: (secret)" in lines
    assert any(line.startswith("all hosts: backend wireguard instead of vxlan") for line in lines)
    assert "host 192.168.64.11: keeps 10.5.1.0/24" in lines
    narrower = config(Network="10.5.0.0/16", SubnetMin="10.5.2.0", Backend={"Type": "vxlan"})
    lines = changes(backend("vxlan"), narrower, leases)
    assert any(line.startswith("host 192.168.64.11: 10.5.1.0/24 is outside") for line in lines)
    assert "host 192.168.64.12: keeps 10.5.2.0/24" in lines
    assert changes(backend("vxlan"), backend("vxlan"), leases) == ["nothing changes"]


def test_the_last_config_of_another_cluster_is_not_remembered(tmp_path: Path) -> None:
    ConfigMemory(tmp_path / "config.json", "etcd /a").keep(backend("vxlan", VNI=7))
    found = ConfigMemory(tmp_path / "config.json", "etcd /a").recall()
    assert found is not None
    assert found.options.number("VNI", 1) == 7
    assert ConfigMemory(tmp_path / "config.json", "etcd /b").recall() is None
    (tmp_path / "config.json").write_text("{")
    assert ConfigMemory(tmp_path / "config.json", "etcd /a").recall() is None
