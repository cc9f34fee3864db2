# SPDX-License-Identifier: Apache-2.0
"""Calls of dockerd: what is no such call is refused in one line, and the server serves on."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from base.paths import DOCKER_FILE
from cni.errors import CniError
from cni.host import PluginHost
from docker_plugin import http_server
from docker_plugin.http_server import DockerSocket
from docker_plugin.ipam_driver import IpamDriver
from docker_plugin.network_driver import NetworkDriver
from docker_plugin.published_ports import PublishedPorts
from docker_plugin.request import Call, DockerCallError
from docker_plugin.service import answers
from ipam.subnet_env import SubnetEnv

NETWORK, ENDPOINT = "a" * 64, "b" * 64
Driver = Callable[[Call], dict[str, Any]]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[PluginHost]:
    made = PluginHost(
        tmp_path / "run", tmp_path / "var", tmp_path / "subnet.env", tmp_path / "none"
    )
    (tmp_path / "var").mkdir()
    SubnetEnv(subnet=IPv4Interface("10.5.1.1/24"), mtu=1450).write(made.subnet_file)
    yield made
    made.close()


def ask(answer: Driver, **body: object) -> dict[str, Any]:
    return answer(Call.parse(json.dumps(body).encode()))


def address(host: PluginHost, pool: str = "10.5.1.0/24", text: str = "") -> str:
    answer = ask(IpamDriver(host).request_address, PoolID=pool, Address=text)
    return str(answer["Address"])


def test_the_lease_is_the_pool_whichever_network_of_the_cluster_is_named(host: PluginHost) -> None:
    ipam = IpamDriver(host)
    named = ask(ipam.request_pool, AddressSpace="flatmesh", Pool="10.5.0.0/16")
    assert named == {
        "PoolID": "10.5.1.0/24",
        "Pool": "10.5.1.0/24",
        "Data": {"com.docker.network.gateway": "10.5.1.1/24"},
    }
    unnamed = ask(ipam.request_pool, AddressSpace="flatmesh")
    assert (unnamed["PoolID"], unnamed["Pool"]) == ("10.5.1.0/24", "0.0.0.0/0")
    part = ask(ipam.request_pool, Pool="10.5.1.0/24", SubPool="10.5.1.64/26")
    assert part["PoolID"] == "10.5.1.0/24,10.5.1.64/26"
    assert address(host, part["PoolID"]) == "10.5.1.64/24"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"Pool": "10.9.0.0/16"}, "is not this host's lease, 10.5.1.0/24"),
        ({"Pool": "10.5.1.0/25"}, "is not this host's lease"),
        ({"Pool": "10.5.1.1/24"}, "has host bits set"),
        ({"Pool": "10.5.0.0/16", "SubPool": "10.5.2.0/26"}, "ip-range 10.5.2.0/26 is not in"),
        ({"V6": True}, "has no IPv6"),
        ({"Pool": 7}, "must be a string"),
    ],
)
def test_pools_that_are_refused(host: PluginHost, body: dict[str, object], why: str) -> None:
    with pytest.raises(DockerCallError, match=why):
        ask(IpamDriver(host).request_pool, **body)


def test_addresses_are_given_once_and_freed(host: PluginHost) -> None:
    ipam = IpamDriver(host)
    first = address(host)
    assert first == "10.5.1.2/24"
    assert address(host, text="10.5.1.9") == "10.5.1.9/24"
    with pytest.raises(CniError, match=r"10\.5\.1\.9 is held by another"):
        address(host, text="10.5.1.9")
    assert ask(ipam.release_address, PoolID="10.5.1.0/24", Address="10.5.1.9") == {}
    assert ask(ipam.release_address, PoolID="10.5.1.0/24", Address="10.5.1.9") == {}
    assert address(host, text="10.5.1.9") == "10.5.1.9/24"
    gateway = {"RequestAddressType": "com.docker.network.gateway"}
    answer = ask(ipam.request_address, PoolID="10.5.1.0/24", Options=gateway)
    assert answer["Address"] == "10.5.1.1/24"
    for refused in ("10.5.1.1", "10.5.1.255", "10.5.2.9"):
        with pytest.raises(DockerCallError, match="can't be given"):
            address(host, text=refused)


def test_the_part_of_the_default_bridge_is_not_given(host: PluginHost) -> None:
    (host.state_dir / DOCKER_FILE).write_text('{"parts": ["10.5.1.4/30"]}')
    given = [address(host) for _ in range(3)]
    assert given == ["10.5.1.2/24", "10.5.1.3/24", "10.5.1.8/24"]
    with pytest.raises(DockerCallError, match="set aside"):
        address(host, text="10.5.1.5")


def test_another_lease_is_named_with_the_mend(host: PluginHost) -> None:
    SubnetEnv(subnet=IPv4Interface("10.5.7.1/24")).write(host.subnet_file)
    with pytest.raises(DockerCallError, match="remove the Docker network and create it again"):
        address(host)
    for pool in ("", "x", "10.5.7.0/24,y"):
        with pytest.raises(DockerCallError, match="none of this driver's"):
            address(host, pool)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"EndpointID": ENDPOINT}, "NetworkID: '' is no id"),
        ({"NetworkID": NETWORK, "EndpointID": "../x"}, "is no id"),
        ({"NetworkID": NETWORK, "EndpointID": ENDPOINT}, "no address: add --ipam-driver"),
        (
            {
                "NetworkID": NETWORK,
                "EndpointID": ENDPOINT,
                "Interface": {"Address": "10.5.1.77/24"},
            },
            "is not from this driver",
        ),
        ({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "Interface": []}, "no JSON object"),
    ],
)
def test_endpoints_that_are_refused(host: PluginHost, body: dict[str, object], why: str) -> None:
    with pytest.raises(DockerCallError, match=why):
        ask(NetworkDriver(host, PublishedPorts(host)).create_endpoint, **body)


def test_an_endpoint_gets_the_mac_of_its_address_unless_one_is_given(host: PluginHost) -> None:
    driver = NetworkDriver(host, PublishedPorts(host))
    body: dict[str, Any] = {"NetworkID": NETWORK, "EndpointID": ENDPOINT}
    interface = {"Address": address(host), "MacAddress": ""}
    answer = ask(driver.create_endpoint, **body, Interface=interface)
    assert answer == {"Interface": {"MacAddress": "0a:58:0a:05:01:02"}}
    body["EndpointID"] = "c" * 64
    interface = {"Address": address(host), "MacAddress": "02:00:00:00:00:01"}
    assert ask(driver.create_endpoint, **body, Interface=interface) == {"Interface": {}}
    for mac in ("01:00:00:00:00:01", "00:00:00:00:00:00", "x"):
        interface["MacAddress"] = mac
        with pytest.raises(DockerCallError, match="no hardware address"):
            ask(driver.create_endpoint, **body, Interface=interface)


@pytest.fixture
def path(tmp_path: Path, host: PluginHost) -> Iterator[Path]:
    path = tmp_path / "flatmesh.sock"
    server = DockerSocket(path, answers(host, PublishedPorts(host)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield path
    server.shutdown()
    server.server_close()


def send(path: Path, data: bytes) -> tuple[int, dict[str, Any]]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(path))
        client.sendall(data)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def post(name: str, body: bytes, length: str = "") -> bytes:
    head = f"POST /{name} HTTP/1.1\r\nHost: x\r\nContent-Length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


def test_the_handshake(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    status, answer = send(path, post("Plugin.Activate", b""))
    assert (status, answer) == (200, {"Implements": ["NetworkDriver", "IpamDriver"]})
    assert send(path, post("NetworkDriver.AllocateNetwork", b"{}"))[0] == 404


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (post("IpamDriver.RequestPool", b"{"), "no JSON"),
        (post("IpamDriver.RequestPool", b"[" * 100_000), "nested too deeply"),
        (post("IpamDriver.RequestPool", b"[]"), "no JSON object"),
        (post("IpamDriver.RequestPool", b'{"Pool": "\xff"}'), "no JSON"),
        (post("IpamDriver.RequestPool", b"", "-1"), "length of at most"),
        (post("IpamDriver.RequestPool", b"", "99999999"), "length of at most"),
    ],
)
def test_what_is_no_call_is_refused_in_one_line(path: Path, data: bytes, why: str) -> None:
    status, answer = send(path, data)
    assert status == 200
    assert why in answer["Err"]
    assert answer["Err"] == answer["Error"]
    assert "\n" not in answer["Err"]
    assert send(path, post("Plugin.Activate", b""))[0] == 200


def test_clients_that_send_nothing_hold_nobody_up_for_long(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server.Handler, "timeout", 0.2)
    silent = [socket.socket(socket.AF_UNIX) for _ in range(3 * http_server.WORKERS)]
    try:
        for one in silent:
            one.connect(str(path))
        assert send(path, post("Plugin.Activate", b""))[0] == 200
    finally:
        for one in silent:
            one.close()
