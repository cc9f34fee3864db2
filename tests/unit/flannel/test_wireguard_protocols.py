# SPDX-License-Identifier: Apache-2.0
"""What goes to wireguard-go as text and to the kernel as netlink, and what comes back.

pyroute2, which has its own tables of linux/wireguard.h, decodes our messages and encodes replies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM, inet_pton, socket
from typing import Any

import pytest

from flannel.wireguard.uapi import Uapi, UapiError, format_change, parse_device
from hostnet.wireguard import netlink
from hostnet.wireguard.state import (
    NO_KEY,
    DeviceChange,
    Endpoint,
    PeerChange,
    WireguardDevice,
    WireguardPeer,
    key_text,
)

A, B, C = (key_text(bytes([n]) * 32) for n in (1, 2, 3))
HEX = {key: (bytes([n]) * 32).hex() for n, key in ((1, A), (2, B), (3, C))}
NEW = PeerChange(
    A,
    new=True,
    endpoint=Endpoint("192.168.64.3", 51820),
    keepalive=25,
    preshared_key=B,
    allowed_ips=("10.5.76.0/24", "fd05:0:0:4c::/64"),
)
CHANGE = DeviceChange(
    C,
    51820,
    (
        NEW,
        PeerChange(B, endpoint=Endpoint("fd00:1::3", 51821), replace_allowed_ips=True),
        PeerChange(C, preshared_key=NO_KEY, keepalive=0),
        PeerChange(C, remove=True),
    ),
)

# -- text --------------------------------------------------------------------------------


def test_a_change_as_text() -> None:
    assert format_change(CHANGE).splitlines() == [
        "set=1",
        f"private_key={HEX[C]}",
        "listen_port=51820",
        f"public_key={HEX[A]}",
        f"preshared_key={HEX[B]}",
        "endpoint=192.168.64.3:51820",
        "allowed_ip=10.5.76.0/24",
        "allowed_ip=fd05:0:0:4c::/64",
        "persistent_keepalive_interval=25",
        f"public_key={HEX[B]}",
        "update_only=true",
        "endpoint=[fd00:1::3]:51821",
        "replace_allowed_ips=true",
        f"public_key={HEX[C]}",
        "update_only=true",
        f"preshared_key={'0' * 64}",
        "persistent_keepalive_interval=0",
        f"public_key={HEX[C]}",
        "remove=true",
        "",
    ]


ANSWER = f"""private_key={HEX[C]}
listen_port=51820
public_key={HEX[A]}
preshared_key={HEX[B]}
protocol_version=1
endpoint=[fd00:1::3]:51821
last_handshake_time_sec=1800000000
last_handshake_time_nsec=500000000
tx_bytes=20
rx_bytes=10
persistent_keepalive_interval=25
allowed_ip=10.5.76.0/24
allowed_ip=fd05:0:0:4c::/64
some_day=more
public_key={HEX[B]}
preshared_key={"0" * 64}
errno=0

"""


def test_a_device_as_text() -> None:
    device = parse_device(ANSWER)
    assert device == WireguardDevice(
        C,
        51820,
        {
            A: WireguardPeer(
                A,
                Endpoint("fd00:1::3", 51821),
                frozenset(["10.5.76.0/24", "fd05:0:0:4c::/64"]),
                25,
                B,
            ),
            B: WireguardPeer(B),
        },
    )
    seen = device.peers[A]
    assert (seen.last_handshake, seen.received, seen.sent) == (1_800_000_000.5, 10, 20)


def test_a_device_without_a_key() -> None:
    assert parse_device("errno=0\n\n") == WireguardDevice()


@pytest.mark.parametrize("text", ["nowhere", "", "192.168.64.3:https"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Endpoint.parse(text)


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Callable[[bytes], Uapi]]:
    """A process that answers every request with the same bytes; its socket's path is long."""
    directory = tmp_path / ("deep" * 30)
    directory.mkdir()
    listener = socket(AF_UNIX, SOCK_STREAM)
    threads = []

    def serve(answer: bytes) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(answer)

    def start(answer: bytes) -> Uapi:
        import os

        here = os.open(directory, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/flannel-wg.sock")
        os.close(here)
        listener.listen()
        threads.append(threading.Thread(target=serve, args=(answer,)))
        threads[0].start()
        return Uapi(directory / "flannel-wg.sock")

    yield start
    for thread in threads:
        thread.join()
    listener.close()


def test_an_answer_is_read_from_a_socket_of_any_path_length(answering: Any) -> None:
    assert answering(ANSWER.encode()).read() == parse_device(ANSWER)


def test_a_refused_change_is_one_line(answering: Any) -> None:
    uapi = answering(b"errno=-98\n\n")
    with pytest.raises(UapiError, match=r"^wireguard-go on .*: refuses a change: Address already"):
        uapi.write(CHANGE)


def test_an_answer_that_breaks_off_is_an_error(answering: Any) -> None:
    with pytest.raises(UapiError, match="went away in the midst of an answer"):
        answering(ANSWER[:40].encode()).read()


@pytest.mark.parametrize(
    "answer",
    ["allowed_ip=10.5.0.0/24", "listen_port=x", "public_key=00", "public_key=zz", "errno=x"],
)
def test_an_answer_that_is_not_the_protocol_is_one_line(answering: Any, answer: str) -> None:
    with pytest.raises(UapiError, match=r"^wireguard-go on .*: (its answer|refuses)"):
        answering(f"{answer}\n\n".encode()).read()


def test_a_missing_process_is_one_line(tmp_path: Path) -> None:
    uapi = Uapi(tmp_path / "no" / "flannel-wg.sock")
    assert not uapi.answers()
    assert uapi.pid() is None
    with pytest.raises(UapiError, match=r"flannel-wg.sock: No such file or directory$"):
        uapi.read()


# -- netlink -----------------------------------------------------------------------------


def decoded(body: bytes) -> Any:
    """What pyroute2 reads in a message of ours."""
    from pyroute2.netlink.generic.wireguard import wgmsg

    head = (16 + len(body)).to_bytes(4, "little") + bytes(12)
    message = wgmsg(head + body)
    message.decode()
    return message


def test_a_change_as_netlink() -> None:
    [body] = netlink.pack_change("flannel-wg", CHANGE)
    message = decoded(body)
    assert message["cmd"] == netlink.SET_DEVICE
    assert message.get_attr("WGDEVICE_A_IFNAME") == "flannel-wg"
    assert message.get_attr("WGDEVICE_A_PRIVATE_KEY").decode() == C
    assert message.get_attr("WGDEVICE_A_LISTEN_PORT") == 51820
    new, second, third, gone = message.get_attr("WGDEVICE_A_PEERS")
    assert new.get_attr("WGPEER_A_PUBLIC_KEY").decode() == A
    assert new.get_attr("WGPEER_A_PRESHARED_KEY").decode() == B
    assert new.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") == 25
    assert new.get_attr("WGPEER_A_FLAGS") == 0
    endpoint = new.get_attr("WGPEER_A_ENDPOINT")
    assert (endpoint["addr"], endpoint["port"]) == ("192.168.64.3", 51820)
    ips = new.get_attr("WGPEER_A_ALLOWEDIPS")
    assert [ip["addr"] for ip in ips] == ["10.5.76.0/24", "fd05:0:0:4c::/64"]
    endpoint = second.get_attr("WGPEER_A_ENDPOINT")
    assert (endpoint["addr"], endpoint["port"]) == ("fd00:1::3", 51821)
    assert second.get_attr("WGPEER_A_FLAGS") == 0x2 | 0x4  # replace allowed IPs, update only
    assert third.get_attr("WGPEER_A_PRESHARED_KEY").decode() == NO_KEY
    assert third.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") == 0
    assert gone.get_attr("WGPEER_A_FLAGS") == 0x1 | 0x4  # remove me, update only


def test_many_peers_are_several_messages_with_all_of_them_in_order() -> None:
    keys = [key_text(n.to_bytes(32, "big")) for n in range(1, 2001)]
    peers = tuple(PeerChange(key, new=True, allowed_ips=("10.5.0.0/24",)) for key in keys)
    bodies = netlink.pack_change("flannel-wg", DeviceChange(C, 51820, peers))
    assert len(bodies) > 1
    assert all(len(body) < 1 << 16 for body in bodies)
    messages = [decoded(body) for body in bodies]
    assert [m.get_attr("WGDEVICE_A_LISTEN_PORT") for m in messages][1:] == [None] * (
        len(bodies) - 1
    )
    found = [
        p.get_attr("WGPEER_A_PUBLIC_KEY") for m in messages for p in m.get_attr("WGDEVICE_A_PEERS")
    ]
    assert [key.decode() for key in found] == keys


def test_nothing_to_change_is_no_message() -> None:
    assert netlink.pack_change("flannel-wg", DeviceChange()) == []


def encoded(attributes: list[Any]) -> bytes:
    """Attributes as pyroute2 writes them, as the kernel would."""
    from pyroute2.netlink.generic.wireguard import wgmsg

    message = wgmsg()
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data[20:])


def test_a_device_as_netlink_in_two_messages() -> None:
    def ip(address: str, length: int) -> dict[str, Any]:
        family = AF_INET6 if ":" in address else AF_INET
        return {
            "attrs": [
                ["WGALLOWEDIP_A_FAMILY", family],
                ["WGALLOWEDIP_A_IPADDR", inet_pton(family, address)],
                ["WGALLOWEDIP_A_CIDR_MASK", length],
            ]
        }

    first = [
        ["WGDEVICE_A_IFNAME", "flannel-wg"],
        ["WGDEVICE_A_PRIVATE_KEY", C],
        ["WGDEVICE_A_LISTEN_PORT", 51820],
        [
            "WGDEVICE_A_PEERS",
            [
                {
                    "attrs": [
                        ["WGPEER_A_PUBLIC_KEY", A],
                        ["WGPEER_A_PRESHARED_KEY", B],
                        ["WGPEER_A_ENDPOINT", {"addr": "192.168.64.3", "port": 51820}],
                        ["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", 25],
                        ["WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": 1_800_000_000, "tv_nsec": 5}],
                        ["WGPEER_A_RX_BYTES", 10],
                        ["WGPEER_A_TX_BYTES", 20],
                        ["WGPEER_A_ALLOWEDIPS", [ip("10.5.76.0", 24)]],
                    ]
                }
            ],
        ],
    ]
    second = [
        ["WGDEVICE_A_IFNAME", "flannel-wg"],
        [
            "WGDEVICE_A_PEERS",
            [
                {
                    "attrs": [
                        ["WGPEER_A_PUBLIC_KEY", A],
                        [
                            "WGPEER_A_ALLOWEDIPS",
                            [ip("fd05:0:0:4c::", 64)],
                        ],
                    ]
                },
                {
                    "attrs": [
                        ["WGPEER_A_PUBLIC_KEY", B],
                        ["WGPEER_A_PRESHARED_KEY", NO_KEY],
                        [
                            "WGPEER_A_ENDPOINT",
                            {"addr": "fd00:1::3", "port": 51821, "flowinfo": 0, "scope_id": 0},
                        ],
                    ]
                },
            ],
        ],
    ]
    device = netlink.parse_device([encoded(first), encoded(second)])
    assert device == WireguardDevice(
        C,
        51820,
        {
            A: WireguardPeer(
                A,
                Endpoint("192.168.64.3", 51820),
                frozenset(["10.5.76.0/24", "fd05:0:0:4c::/64"]),
                25,
                B,
            ),
            B: WireguardPeer(B, Endpoint("fd00:1::3", 51821)),
        },
    )
    seen = device.peers[A]
    assert (seen.received, seen.sent) == (10, 20)
    assert seen.last_handshake == pytest.approx(1_800_000_000)


def test_packed_messages_are_read_back() -> None:
    [body] = netlink.pack_change("flannel-wg", DeviceChange(C, 51820, (NEW,)))
    assert netlink.parse_device([body[4:]]) == WireguardDevice(
        C,
        51820,
        {A: WireguardPeer(A, NEW.endpoint, frozenset(NEW.allowed_ips), 25, B)},
    )
