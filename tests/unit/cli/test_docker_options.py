# SPDX-License-Identifier: Apache-2.0
"""What Docker is told, and that daemon.json keeps what is not ours."""

from __future__ import annotations

import json
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from base.paths import ADDRESS_STORE, DOCKER_FILE
from cli import docker_options
from cli.docker_options import DockerOptionsError
from cni import cidr
from cni.config.address_range import whole_subnet
from cni.errors import CniError
from cni.set_aside import read_set_aside, without
from ipam.address_store import AddressStore, Attachment
from ipam.subnet_env import SubnetEnv

LEASE = SubnetEnv(
    subnet=IPv4Interface("10.5.1.1/24"), ipv6_subnet=IPv6Interface("fd05:0:0:1::1/64"), mtu=1450
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    LEASE.write(tmp_path / "subnet.env")
    return tmp_path


def call(directory: Path, *arguments: str) -> Result:
    paths = (
        *("--subnet-file", f"{directory}/subnet.env", "--state-dir", f"{directory}/var"),
        *("--run-dir", f"{directory}/run", "--daemon-file", f"{directory}/etc/daemon.json"),
    )
    return CliRunner().invoke(docker_options.docker_options, [*paths, *arguments])


def test_options_name_the_upper_half_of_the_lease_and_it_is_set_aside(run: Path) -> None:
    result = call(run)
    assert result.output.split() == [
        *("--bridge=kbr0", "--fixed-cidr=10.5.1.128/25", "--ipv6=true"),
        *("--fixed-cidr-v6=fd05:0:0:1:8000::/65", "--mtu=1450", "--ip-masq=false"),
    ]
    parts = [str(part) for part in read_set_aside(run / "var")]
    assert parts == ["10.5.1.128/25", "fd05:0:0:1:8000::/65"]


def test_a_smaller_part_and_the_form_of_mk_docker_opts(run: Path) -> None:
    result = call(run, "--part", "eighth", "--format", "env", "--iptables=false")
    assert result.output == (
        'DOCKER_OPTS="--bridge=kbr0 --fixed-cidr=10.5.1.224/27 --ipv6=true '
        '--fixed-cidr-v6=fd05:0:0:1:e000::/67 --mtu=1450 --ip-masq=false --iptables=false"\n'
    )


def test_daemon_json_keeps_foreign_keys_and_is_left_alone_when_right(run: Path) -> None:
    file = run / "etc/daemon.json"
    file.parent.mkdir()
    file.write_text('{"log-driver": "journald", "mtu": 1500, "live-restore": true}')
    file.chmod(0o600)
    assert "restart dockerd" in call(run, "--write").output
    written = json.loads(file.read_text())
    assert written == {
        "log-driver": "journald",
        "live-restore": True,
        "bridge": "kbr0",
        "fixed-cidr": "10.5.1.128/25",
        "ipv6": True,
        "fixed-cidr-v6": "fd05:0:0:1:8000::/65",
        "mtu": 1450,
        "ip-masq": False,
    }
    assert file.stat().st_mode & 0o777 == 0o600
    assert "unchanged" in call(run, "--write").output
    assert "restart dockerd" in call(run, "--remove").output
    assert json.loads(file.read_text()) == {"log-driver": "journald", "live-restore": True}
    assert not (run / "var" / DOCKER_FILE).exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"bip": "172.17.0.1/16"}', "can't have bip beside bridge"),
        ("{", "no JSON"),
        ("[]", "no JSON object"),
    ],
)
def test_a_daemon_json_that_can_not_be_changed_stays_as_it_is(
    run: Path, text: str, why: str
) -> None:
    file = run / "etc/daemon.json"
    file.parent.mkdir()
    file.write_text(text)
    result = call(run, "--write")
    assert isinstance(result.exception, DockerOptionsError)
    assert why in str(result.exception)
    assert file.read_text() == text


def test_a_part_that_pods_have_addresses_of_is_refused(run: Path) -> None:
    (run / "var").mkdir()
    address = cidr.parse_address("10.5.1.200")
    sets = [(whole_subnet(cidr.parse_cidr("10.5.1.0/24")),)]
    with AddressStore(run / "var" / ADDRESS_STORE) as store:
        store.reserve(Attachment("pods", "one", "eth0"), sets, [address])
    result = call(run)
    assert "pods have 1 address(es) of 10.5.1.128/25" in str(result.exception)
    assert read_set_aside(run / "var") == ()
    assert call(run, "--part", "eighth").exit_code == 0  # 10.5.1.224/27


def test_hosts_whose_pods_are_ports_of_open_vswitch_are_told_so(run: Path) -> None:
    (run / "run").mkdir()
    (run / "run/attach.json").write_text('{"bridge": null, "mode": "ovs"}')
    assert "PodAttach kbr0" in str(call(run).exception)


def test_no_address_of_a_part_is_in_what_is_left() -> None:
    whole = whole_subnet(cidr.parse_cidr("10.5.1.0/24"))
    (left,) = without([(whole,)], [cidr.parse_cidr("10.5.1.64/26")])
    held = [value & 255 for one in left for value in range(one.first, one.last + 1)]
    assert held == [*range(1, 64), *range(128, 255)]
    assert {one.gateway for one in left} == {whole.gateway}
    assert without([(whole,)], [cidr.parse_cidr("10.6.1.0/24")]) == ((whole,),)
    with pytest.raises(CniError, match="all addresses are set aside"):
        without([(whole,)], [cidr.parse_cidr("10.5.1.0/24")])


def test_a_record_that_can_not_be_read_stops_adds(tmp_path: Path) -> None:
    (tmp_path / DOCKER_FILE).write_text("{}")
    with pytest.raises(CniError, match="run flatmesh docker-options again"):
        read_set_aside(tmp_path)
