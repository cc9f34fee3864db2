# SPDX-License-Identifier: Apache-2.0
"""The cluster config: flanneld's defaults and limits, and one clear line for everything else."""

from __future__ import annotations

import json
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest

from ipam.network import ConfigError, NetworkConfig, document, parse_config


def test_flanneld_defaults() -> None:
    config = parse_config('{"Network":"10.5.0.0/16"}')
    assert config == NetworkConfig(
        network=IPv4Network("10.5.0.0/16"),
        subnet_len=24,
        subnet_min=IPv4Address("10.5.1.0"),
        subnet_max=IPv4Address("10.5.255.0"),
        backend_type="udp",
    )
    assert config.enable_ipv4
    assert not config.enable_ipv6
    assert config.ipv6_network is None


@pytest.mark.parametrize(
    ("network", "length"),
    [("10.0.0.0/8", 24), ("10.5.0.0/22", 24), ("10.5.0.0/23", 25), ("10.5.0.0/28", 30)],
)
def test_default_subnet_len(network: str, length: int) -> None:
    assert parse_config(f'{{"Network":"{network}"}}').subnet_len == length


@pytest.mark.parametrize(
    ("network", "length"),
    [("fd05::/48", 64), ("fd05::/62", 64), ("fd05::/63", 65), ("fd05::/124", 126)],
)
def test_default_ipv6_subnet_len(network: str, length: int) -> None:
    text = f'{{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"{network}"}}'
    assert parse_config(text).ipv6_subnet_len == length


def test_ipv6_only() -> None:
    config = parse_config(
        b'{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","Network":"nonsense"}'
    )
    assert config.network is None
    assert config.subnet_min is None
    assert config.subnet_len == 0
    assert config.ipv6_subnet_min == IPv6Address("fc00:0:0:1::")
    assert config.ipv6_subnet_max == IPv6Address("fc00:0:0:ffff::")


def test_every_key_in_any_case() -> None:
    config = parse_config(
        '{"enableipv4":true,"ENABLEIPV6":true,"EnableNFTables":true,"network":"10.5.7.7/16",'
        '"SubnetLen":26,"subnetmin":"10.5.1.64","SubnetMax":"10.5.9.192",'
        '"ipv6network":"fd05::/48","IPv6SubnetLen":80,"IPv6SubnetMin":"fd05:0:0:1::",'
        '"IPv6SubnetMax":"fd05:0:0:1:ffff::","Backend":{"type":"VXLAN","vni":7},"Future":1}'
    )
    assert config.network == IPv4Network("10.5.0.0/16")  # host bits are dropped, as by flanneld
    assert (config.subnet_min, config.subnet_max) == (
        IPv4Address("10.5.1.64"),
        IPv4Address("10.5.9.192"),
    )
    assert config.ipv6_subnet_len == 80
    assert config.ipv6_subnet_max == IPv6Address("fd05:0:0:1:ffff::")
    assert config.backend_type == "vxlan"
    assert config.options.number("VNI", 1) == 7
    assert hash(config) == hash(config)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "not JSON"),
        ("not json", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "a list"),
        ("null", "null"),
        ("{}", "Network is missing"),
        ('{"Network":null}', "Network is missing"),
        ('{"Network":5}', "Network is 5"),
        ('{"Network":"10.5.0.0"}', "prefix length"),
        ('{"Network":"10.5.0.0/33"}', "/33"),
        ('{"Network":"fd00::/48"}', "fd00::/48"),
        ('{"Network":"10.5.0.0/29"}', "/28 or larger"),
        ('{"Network":"10.5.0.0/16","SubnetLen":31}', "at most 30"),
        ('{"Network":"10.5.0.0/16","SubnetLen":17}', "use 18 or more"),
        ('{"Network":"10.5.0.0/16","SubnetLen":"24"}', 'SubnetLen is "24"'),
        ('{"Network":"10.5.0.0/16","SubnetLen":true}', "SubnetLen is true"),
        ('{"Network":"10.5.0.0/16","SubnetLen":-1}', "SubnetLen is -1"),
        ('{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0"}', "not within 10.5.0.0/16"),
        ('{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.7"}', "use 10.5.1.0"),
        ('{"Network":"10.5.0.0/16","SubnetMax":"x"}', "SubnetMax"),
        ('{"Network":"10.5.0.0/16","SubnetMax":7}', "SubnetMax"),
        ('{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0"}', "is above"),
        ('{"Network":"10.5.0.0/16","EnableIPv6":true}', "IPv6Network is missing"),
        ('{"Network":"10.5.0.0/16","EnableIPv6":"yes"}', "true or false"),
        ('{"EnableIPv4":false}', "no family"),
        ('{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd05::/125"}', "/124 or larger"),
        ('{"Network":"10.5.0.0/16","Backend":"vxlan"}', "Backend is a string"),
        ('{"Network":"10.5.0.0/16","Backend":{"Type":1}}', "Backend.Type is 1"),
    ],
)
def test_refused_in_one_line(text: str | bytes, part: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_config(text)
    assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "cluster config" in str(refusal.value)


def test_options_of_another_type_are_refused() -> None:
    config = parse_config(
        '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRouting":1,"Port":70000,'
        '"PSK":5,"MTU":true,"None":null}}'
    )
    assert config.options.text("None", "default") == "default"
    assert config.options.flag("absent", default=False) is False
    with pytest.raises(ConfigError, match=r"Backend\.DirectRouting is 1; it must be true or false"):
        config.options.flag("DirectRouting", default=False)
    with pytest.raises(ConfigError, match=r"Backend\.Port is 70000; it must be from 0 to 65535"):
        config.options.number("Port", 0, minimum=0, maximum=65535)
    with pytest.raises(ConfigError, match=r"Backend\.PSK is 5; it must be a string"):
        config.options.text("PSK", "")
    with pytest.raises(ConfigError, match=r"Backend\.MTU is true; it must be a whole number"):
        config.options.number("MTU", 0)


@pytest.mark.parametrize(
    ("text", "said"), [("", None), (',"IPMasq":true', True), (',"ipmasq":false', False)]
)
def test_masquerading_may_be_set_in_the_cluster_config(text: str, said: bool | None) -> None:
    config = parse_config(f'{{"Network":"10.5.0.0/16"{text}}}')
    assert config.ip_masq is said


def test_what_is_open_to_pods_is_names_and_ports() -> None:
    text = '{"Network":"10.5.0.0/16","OpenToPods":["etcd","udp/8472"]}'
    assert parse_config(text).open_to_pods == {"etcd", "udp/8472"}


@pytest.mark.parametrize("wrong", ['"etcd"', "{}", '["etc"]', '["tcp/0"]', '["tcp/65536"]', "[1]"])
def test_what_else_is_open_to_pods_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster config: OpenToPods .*; it must be a list of"):
        parse_config(f'{{"Network":"10.5.0.0/16","OpenToPods":{wrong}}}')


def test_service_networks() -> None:
    text = '{"Network":"10.5.0.0/16","ServiceNetwork":"10.96.0.0/16","Backend":{"Type":"vxlan"}}'
    config = parse_config(text)
    assert config.service_networks == (IPv4Network("10.96.0.0/16"),)
    assert parse_config(json.dumps(document(config))) == config


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("10.5.128.0/24", "ServiceNetwork 10.5.128.0/24 overlaps the pods' 10.5.0.0/16"),
        ("10.96.0.0/31", "has no room"),
        ("10.96.0.0", 'e.g. "10.5.0.0/16"'),
    ],
)
def test_a_service_network_that_cannot_be(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_config(json.dumps({"Network": "10.5.0.0/16", "ServiceNetwork": value}))
