# SPDX-License-Identifier: Apache-2.0
"""The addresses of etcd's members, from the endpoints."""

from __future__ import annotations

from ipaddress import ip_address

from agent.etcd_addresses import EtcdAddresses


def test_addresses_and_names_of_endpoints_are_known_with_their_ports() -> None:
    etcd = EtcdAddresses(
        ["http://192.168.64.1:2379", "https://[fd00:1::1]:4001/", "http://localhost:2379"]
    )
    assert etcd.ports == {2379, 4001}
    literal = {ip_address("192.168.64.1"), ip_address("fd00:1::1")}
    assert etcd.addresses(again=False) == literal
    assert etcd.addresses(again=True) > literal
    assert all(one.is_loopback for one in etcd.addresses(again=False) - literal)


def test_a_name_without_an_answer_adds_nothing() -> None:
    etcd = EtcdAddresses(["http://no-such-host.invalid:2379"])
    assert etcd.addresses(again=True) == frozenset()
