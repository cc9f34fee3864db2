# SPDX-License-Identifier: Apache-2.0
"""subnet.env, byte for byte."""

from __future__ import annotations

import stat
from ipaddress import IPv4Network, IPv6Network, ip_interface
from pathlib import Path

import pytest

from ipam.lease import Lease
from ipam.network import parse_config
from ipam.subnet_env import SubnetEnv, SubnetEnvError

IPV4 = """\
FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.72.1/24
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""
DUAL = """\
FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.72.1/24
FLANNEL_IPV6_NETWORK=fd05::/48
FLANNEL_IPV6_SUBNET=fd05:0:0:48::1/64
FLANNEL_MTU=1430
FLANNEL_IPMASQ=false
"""
IPV6 = """\
FLANNEL_IPV6_NETWORK=fd05::/48
FLANNEL_IPV6_SUBNET=fd05:0:0:48::1/64
FLANNEL_MTU=1430
FLANNEL_IPMASQ=false
"""
V4, V6 = IPv4Network("10.5.72.0/24"), IPv6Network("fd05:0:0:48::/64")
CONFIG = parse_config('{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd05::/48"}')


@pytest.mark.parametrize(
    ("lease", "mtu", "ip_masq", "text"),
    [
        (Lease(V4, None), 1450, True, IPV4),
        (Lease(V4, V6), 1430, False, DUAL),
        (Lease(None, V6), 1430, False, IPV6),
    ],
)
def test_written_as_flanneld_does(
    lease: Lease, mtu: int, ip_masq: bool, text: str, tmp_path: Path
) -> None:
    env = SubnetEnv.of(CONFIG, lease, mtu=mtu, ip_masq=ip_masq)
    assert env.format() == text
    assert SubnetEnv.parse(text) == env
    path = tmp_path / "new" / "subnet.env"
    env.write(path)
    env.write(path)
    assert path.read_text() == text
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["subnet.env"]


def test_several_networks_and_shell_quoting() -> None:
    env = SubnetEnv.parse(
        "# by hand\nexport FLANNEL_NETWORK='10.5.0.0/16,10.6.0.0/16'\n\n"
        "FLANNEL_SUBNET=10.5.72.1/24\n"
    )
    assert env.networks == (IPv4Network("10.5.0.0/16"), IPv4Network("10.6.0.0/16"))
    assert env.subnet == ip_interface("10.5.72.1/24")
    assert env.format().startswith("FLANNEL_NETWORK=10.5.0.0/16,10.6.0.0/16\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "FLANNEL_MTU=1450\n",
        "FLANNEL_SUBNET=10.5.72.1/44\n",
        "FLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_NETWORK=x\n",
        "FLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_MTU=many\n",
        "FLANNEL_SUBNET=10.5.72.1/24\nFLANNEL_IPMASQ=perhaps\n",
        "\0\xff",
    ],
)
def test_refused_in_one_line_that_names_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    path.write_text(text)
    with pytest.raises(SubnetEnvError) as refusal:
        SubnetEnv.read(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    path.mkdir()  # a directory can't be replaced by a file
    with pytest.raises(OSError, match="directory"):
        SubnetEnv.parse(IPV4).write(path)
    assert [p.name for p in tmp_path.iterdir()] == ["subnet.env"]
