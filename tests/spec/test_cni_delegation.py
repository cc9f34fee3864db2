# SPDX-License-Identifier: Apache-2.0
"""IPAM plugins of others that we call: host-local, static, dhcp, and broken ones."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spec.cni_host import REFERENCE, CniHost, MakeConf
from tests.spec.reference_plugins import addresses, host_local, reserved

pytestmark = pytest.mark.skipif(
    not (REFERENCE / "bridge").exists(), reason="needs containernetworking-plugins"
)


def test_host_local_gives_the_addresses(host: CniHost, container: str, conf: MakeConf) -> None:
    config = conf(name="hl", bridge="brhl", ipam=host_local(host.directory))
    pod = host.pod()
    result = host.call("ADD", config, container, pod).result()
    assert addresses(host, pod) == {result["ips"][0]["address"]}
    assert reserved(host, "hl") == [result["ips"][0]["address"].partition("/")[0]]
    host.call("CHECK", {**config, "prevResult": result}, container, pod).result()
    host.call("DEL", config, container, pod).result()
    host.call("DEL", config, container, pod).result()
    assert reserved(host, "hl") == []
    assert not [r for r in host.records() if r[1] == container]


def test_static_gives_the_addresses(host: CniHost, container: str, conf: MakeConf) -> None:
    ipam = {
        "type": "static",
        "addresses": [{"address": "10.78.0.9/24", "gateway": "10.78.0.1"}],
        "routes": [{"dst": "192.0.2.0/24"}],
    }
    pod = host.pod()
    config = conf(name="st", bridge="brst", ipam=ipam)
    host.call("ADD", config, container, pod).result()
    assert addresses(host, pod) == {"10.78.0.9/24"}
    routes = {(r["dst"], r.get("gateway")) for r in host.ip("route", pod=pod)}
    assert {("192.0.2.0/24", "10.78.0.1"), ("default", "10.78.0.1")} <= routes
    host.call("DEL", config, container, pod).result()


UDHCPD = """
start 10.79.0.50
end 10.79.0.59
interface dhcp1
lease_file {directory}/leases
pidfile {directory}/udhcpd.pid
option subnet 255.255.255.0
option router 10.79.0.1
option lease 600
"""


@pytest.fixture
def dhcp(host: CniHost) -> Iterator[dict[str, str]]:
    """A DHCP server on the bridge, and the daemon half of Debian's dhcp plugin."""
    busybox = shutil.which("busybox")
    if busybox is None or not (REFERENCE / "dhcp").exists():
        pytest.skip("needs busybox and the dhcp plugin")
    directory = host.directory / "dhcp"
    directory.mkdir(exist_ok=True)
    (directory / "leases").touch()
    (directory / "udhcpd.conf").write_text(UDHCPD.format(directory=directory))
    socket_file = directory / "dhcp.sock"
    socket_file.unlink(missing_ok=True)
    host.run("ip", "link", "add", "brdhcp", "up", "type", "bridge")
    server = host.pod()
    host.run(
        "ip",
        "link",
        "add",
        "dhcp0",
        "master",
        "brdhcp",
        "up",
        "type",
        "veth",
        "peer",
        "name",
        "dhcp1",
        "netns",
        Path(server).name,
    )
    host.run("ip", "addr", "add", "10.79.0.1/24", "dev", "dhcp1", pod=server)
    host.run("ip", "link", "set", "dhcp1", "up", pod=server)

    def start(*command: str) -> subprocess.Popen[bytes]:
        nothing = subprocess.DEVNULL
        return subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)

    running = [
        start(
            *("nsenter", f"--net={server}"),
            *(busybox, "udhcpd", "-f", str(directory / "udhcpd.conf")),
        ),
        start(*host.enter, str(REFERENCE / "dhcp"), "daemon", "-socketpath", str(socket_file)),
    ]
    try:
        host.until(socket_file.exists, "the dhcp daemon")
        yield {"type": "dhcp", "daemonSocketPath": str(socket_file)}
    finally:
        for process in running:
            process.kill()
            process.wait(60)


def test_dhcp_gives_the_address_through_the_pod_s_own_interface(
    host: CniHost, container: str, conf: MakeConf, dhcp: dict[str, str]
) -> None:
    config = conf(name="dh", bridge="brdhcp", isGateway=False, isDefaultGateway=False, ipam=dhcp)
    pod = host.pod()
    result = host.call("ADD", config, container, pod).result()
    (address,) = addresses(host, pod)
    assert address.startswith("10.79.0.5")
    assert result["ips"][0]["address"] == address
    (link,) = host.ip("link", "show", "dev", "eth0", pod=pod)
    assert link["address"] == result["interfaces"][2]["mac"]
    host.call("DEL", config, container, pod).result()
    assert not [r for r in host.records() if r[1] == container]
    assert [x["ifname"] for x in host.ip("link", "show", pod=pod)] == ["lo"]


def test_a_later_failure_gives_the_delegated_address_back(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    # an address in the way of the gateway that IPAM names: found out after it was called
    host.run("ip", "link", "add", "brhl2", "up", "type", "bridge")
    host.run("ip", "addr", "add", "10.77.0.9/25", "dev", "brhl2")
    config = conf(name="hl2", bridge="brhl2", ipam=host_local(host.directory))
    pod = host.pod()
    host.call("ADD", config, container, pod).refused(7)
    assert reserved(host, "hl2") == []
    assert not [r for r in host.records() if r[1] == container]
    assert [link["ifname"] for link in host.ip("link", "show", pod=pod)] == ["lo"]
    assert host.host_interfaces() == []
    assert (host.directory / "host-local" / "hl2").is_dir()  # it was called
    host.run("ip", "link", "del", "brhl2")


def test_a_delegate_that_refuses_is_quoted_with_its_code(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    ipam = host_local(host.directory, ranges=[[{"subnet": "10.77.0.0/31"}]])
    answer = host.call("ADD", conf(name="hl3", ipam=ipam), container, host.pod())
    assert answer.status != 0
    assert "host-local" in answer.body["msg"]
    assert not [r for r in host.records() if r[1] == container]


def test_a_delegate_too_old_for_the_version_is_refused(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    config = conf(name="hl4", cniVersion="1.1.0", ipam=host_local(host.directory))
    answer = host.call("ADD", config, container, host.pod())
    assert "incompatible" in answer.refused(1)


def test_gc_gives_delegated_addresses_back(host: CniHost, container: str, conf: MakeConf) -> None:
    config = conf(name="hl5", bridge="brhl5", ipam=host_local(host.directory))
    kept, gone = host.pod(), host.pod()
    host.call("ADD", config, f"{container}-kept", kept).result()
    host.call("ADD", config, f"{container}-gone", gone).result()
    valid = [{"containerID": f"{container}-kept", "ifname": "eth0"}]
    newer = {**config, "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    host.call("GC", newer).result()
    assert len(reserved(host, "hl5")) == 1
    assert len(addresses(host, kept)) == 1
    host.call("DEL", config, f"{container}-kept", kept).result()
    assert reserved(host, "hl5") == []


def test_a_delegate_that_dies_or_prints_nonsense_gives_no_traceback(
    host: CniHost, container: str, conf: MakeConf
) -> None:
    bad = host.directory / "bad"
    bad.mkdir(exist_ok=True)
    for name, script in (
        ("ipam-noise", "echo hello"),
        ("ipam-dies", "kill -9 $$"),
        ("ipam-mute", "exit 3"),
        ("ipam-empty", 'echo \'{"cniVersion":"1.0.0"}\''),
    ):
        program = bad / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        answer = host.call(
            "ADD",
            conf(ipam={"type": name}),
            container,
            host.pod(),
            environment={"CNI_PATH": str(bad)},
        )
        assert name in answer.refused(answer.code)
        host.call(
            "DEL",
            conf(ipam={"type": name}),
            container,
            "",
            environment={"CNI_PATH": str(bad)},
        )
        (bad / name).write_text("#!/bin/sh\nexit 0\n")
        host.call(
            "DEL", conf(ipam={"type": name}), container, "", environment={"CNI_PATH": str(bad)}
        ).result()
        assert not [r for r in host.records() if r[1] == container]


@pytest.mark.parametrize("how", ["symbolic link", "copy"])
def test_the_plugin_under_another_name_does_not_call_itself(
    host: CniHost, container: str, conf: MakeConf, how: str
) -> None:
    """An executable of ours is the plugin of its own name, whatever it is a copy of."""
    renamed = host.bin_dir / "renamed"
    if how == "copy":
        shutil.copy2(host.bin_dir / "flatmesh", renamed)
    else:
        renamed.symlink_to(host.bin_dir / "flatmesh")
    try:
        answer = host.call("ADD", conf(ipam={"type": "renamed"}), container, host.pod())
        assert answer.code in (4, 7)
        assert "renamed" in str(answer.body)
    finally:
        renamed.unlink()
    assert not [r for r in host.records() if r[1] == container]
