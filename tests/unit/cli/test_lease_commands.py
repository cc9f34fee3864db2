# SPDX-License-Identifier: Apache-2.0
"""`flatmesh lease`: how subnets may be written, which lease is meant, what fits the screen."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from click.testing import CliRunner
from rich.console import Console

from base.output import make_table
from cli.lease_commands import (
    COLUMNS,
    LeaseRow,
    WhichLeaseError,
    _number,
    duration,
    lease_group,
    lease_of_host,
    lease_of_subnets,
    subnets_of,
)
from ipam.host_records import HostRecord
from ipam.lease import Lease, LeaseAttributes, LeaseError

V4, V6 = IPv4Network("10.5.1.0/24"), IPv6Network("fd05:0:0:1::/64")


def lease(number: int, ipv6: IPv6Network | None = None) -> Lease:
    attributes = LeaseAttributes(IPv4Address(f"192.168.64.{number}"))
    return Lease(IPv4Network(f"10.5.{number}.0/24"), ipv6, attributes)


LEASES = {one.key: one for one in (lease(10), lease(1, V6), lease(2))}
RECORDS = {
    lease(10).key: HostRecord("node10"),
    lease(2).key: HostRecord("twin"),
    lease(1, V6).key: HostRecord("twin"),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.5.1.0/24", (V4, None)),
        ("10.5.1.0-24", (V4, None)),
        ("10.5.1.0/24,fd05:0:0:1::/64", (V4, V6)),
        ("10.5.1.0/24, fd05:0:0:1::/64", (V4, V6)),
        ("10.5.1.0-24&fd05:0:0:1::-64", (V4, V6)),
        ("fd05:0:0:1::/64", (None, V6)),
    ],
)
def test_subnets_may_be_written_as_people_and_etcd_do(
    text: str, expected: tuple[object, object]
) -> None:
    assert subnets_of(text) == expected


@pytest.mark.parametrize("text", ["", "10.5.1.0", "10.5.1.1/24", "banana", "fd05::/64,10.5.1.0/24"])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(LeaseError):
        subnets_of(text)


def test_leases_are_sorted_by_number() -> None:
    subnets = [str(one.subnet) for one in sorted(LEASES.values(), key=_number)]
    assert subnets == ["10.5.1.0/24", "10.5.2.0/24", "10.5.10.0/24"]


def test_one_subnet_of_a_dual_stack_lease_is_enough() -> None:
    assert lease_of_subnets(LEASES, V4, None) == lease(1, V6)
    assert lease_of_subnets(LEASES, None, V6) == lease(1, V6)
    assert lease_of_subnets(LEASES, lease(2).subnet, V6) is None


def test_a_host_is_found_by_name_and_address() -> None:
    assert lease_of_host(LEASES, RECORDS, "node10") == lease(10)
    assert lease_of_host(LEASES, RECORDS, "192.168.64.2") == lease(2)
    assert lease_of_host(LEASES, RECORDS, "node1") is None
    with pytest.raises(WhichLeaseError, match=r"2 leases are of twin \(10.5.1.0/24, 10.5.2.0/24\)"):
        lease_of_host(LEASES, RECORDS, "twin")


@pytest.mark.parametrize("arguments", [[], ["10.5.1.0/24", "--host", "h1"]])
def test_release_needs_a_subnet_or_a_host(arguments: list[str]) -> None:
    result = CliRunner().invoke(lease_group, ["release", *arguments])
    assert result.exit_code == 2
    assert "give a subnet, or --host NAME" in result.output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "reserved"),
        (0, "0 s"),
        (59, "59 s"),
        (3600, "1 h"),
        (86399, "23 h 59 min"),
        (90061, "1 d 1 h"),
    ],
)
def test_time_left_is_for_people(seconds: int | None, text: str) -> None:
    assert duration(seconds) == text


def test_twenty_hosts_fit_eighty_columns() -> None:
    rows = [
        LeaseRow(
            subnet=f"10.105.{number}.0/24",
            ipv6_subnet=None,
            host=f"worker-{number}.example.org",
            public_ip=f"192.168.164.{number}",
            public_ipv6=None,
            backend="wireguard",
            reserved=False,
            expires_in=86399,
            version="0.1.0",
        )
        for number in range(101, 121)
    ]
    shown = [one for one in COLUMNS if getattr(rows[0], one.field) is not None]
    console = Console(width=80)
    with console.capture() as captured:
        console.print(make_table(shown, rows))
    lines = captured.get().splitlines()
    assert len(lines) == 21, "a row is a line"
    assert max(len(line.rstrip()) for line in lines) <= 80
