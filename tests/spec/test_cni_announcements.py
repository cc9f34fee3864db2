# SPDX-License-Identifier: Apache-2.0
"""An address that comes back with another MAC is reached at once, by the host and by other pods."""

from __future__ import annotations

from typing import Any

import pytest

from tests.spec.cni_host import CniHost, MakeConf

MACS = ("0a:00:00:00:00:01", "0a:00:00:00:00:02")
LONG = 600_000  # milliseconds that a learned entry counts as right: longer than any test
IPS = {4: "10.5.73.9", 6: "fd00:5:0:7::9"}


def remembers(host: CniHost, pod: str | None, device: str) -> None:
    """A neighbour that asks for no address again that it knows."""
    for family in ("ipv4", "ipv6"):
        name = f"net.{family}.neigh.{device}.base_reachable_time_ms"
        assert host.run("sysctl", "-qw", f"{name}={LONG}", pod=pod).returncode == 0


def reaches(host: CniHost, address: str, pod: str | None) -> bool:
    return host.run("ping", "-c", "1", "-W", "3", address, pod=pod).returncode == 0


def entry(host: CniHost, address: str, pod: str | None, device: str) -> str:
    found = host.ip("neigh", "show", address, "dev", device, pod=pod)
    return str(found[0].get("lladdr", "")) if found else ""


@pytest.mark.parametrize("change", ["asked for", "back to its own"])
def test_an_address_with_another_mac_is_reached_at_once(
    host: CniHost, container: str, conf: MakeConf, change: str
) -> None:
    asked: dict[str, Any] = {"CNI_ARGS": f"IP={IPS[4]},{IPS[6]}"}
    other = host.pod()
    host.call("ADD", conf(hairpinMode=True), f"{container}-other", other).result()
    neighbours: list[tuple[str | None, str]] = [(None, "kbr0"), (other, "eth0")]
    for pod, device in neighbours:
        remembers(host, pod, device)
    changes: list[dict[str, Any]] = [{"runtimeConfig": {"mac": mac}} for mac in MACS]
    if change != "asked for":
        changes[1] = {}
    for number, more in enumerate(changes):
        pod = host.pod()
        config = conf(hairpinMode=True, **more)
        name = f"{container}-{number}"
        result = host.call("ADD", config, name, pod, environment=asked).result()
        mac = result["interfaces"][2]["mac"]
        for address in IPS.values():
            for who, device in neighbours:
                if number:  # told without being asked
                    assert entry(host, address, who, device) == mac
                host.until(lambda: reaches(host, address, who), f"{address} is reached")  # noqa: B023
                assert entry(host, address, who, device) == mac
        host.call("DEL", config, name, pod).result()
    host.call("DEL", conf(), f"{container}-other", other).result()


def test_a_pod_may_announce_its_own_address(host: CniHost, container: str, conf: MakeConf) -> None:
    """The source guard lets gratuitous ARP and unsolicited advertisements through."""
    one, other = host.pod(), host.pod()
    results = [
        host.call("ADD", conf(), f"{container}-{number}", pod).result()
        for number, pod in enumerate((one, other))
    ]
    for number in (4, 6):
        (address,) = (
            ip["address"].partition("/")[0]
            for ip in results[0]["ips"]
            if (":" in ip["address"]) == (number == 6)
        )
        for who, device in ((None, "kbr0"), (other, "eth0")):
            family = "-6" if number == 6 else "-4"
            wrong = (family, "neigh", "replace", address, "lladdr", MACS[0], "dev", device)
            host.run("ip", *wrong, "nud", "stale", pod=who)
        for name in ("ipv4.conf.eth0.arp_notify", "ipv6.conf.eth0.ndisc_notify"):
            host.run("sysctl", "-qw", f"net.{name}=1", pod=one)
        mac = results[0]["interfaces"][2]["mac"]
        host.run("ip", "link", "set", "eth0", "address", mac, pod=one)  # the kernel announces
        for who, device in ((None, "kbr0"), (other, "eth0")):
            host.until(lambda: entry(host, address, who, device) == mac, "it is told")  # noqa: B023
    for number in (0, 1):
        host.call("DEL", conf(), f"{container}-{number}", "").result()
