"""Other people's plugins: IPAM that we call, main plugins that call us, chains, flannel's own.

They are Debian's containernetworking-plugins (1.1.1: specification 1.0.0).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.runtime import PluginError, PodInterface, Runtime
from tests.spec.cni_host import Answer, CniHost, MakeConf

REFERENCE = Path("/usr/lib/cni")
pytestmark = pytest.mark.skipif(
    not (REFERENCE / "bridge").exists(), reason="needs containernetworking-plugins"
)


def addresses(host: CniHost, pod: str, name: str = "eth0") -> set[str]:
    links = host.ip("addr", "show", "dev", name, pod=pod)
    return {
        f"{a['local']}/{a['prefixlen']}"
        for link in links
        for a in link["addr_info"]
        if a["scope"] == "global"
    }


def runtime(host: CniHost) -> Runtime:
    """A runtime as libcni is one: chains, prevResult, capabilities."""
    return Runtime((host.bin_dir, REFERENCE), host.variables, tuple(host.enter))


def host_local(directory: Path, **more: Any) -> dict[str, Any]:
    return {
        "type": "host-local",
        "ranges": [[{"subnet": "10.77.0.0/24"}]],
        "dataDir": str(directory / "host-local"),
        **more,
    }


def reserved(host: CniHost, network: str) -> list[str]:
    """The addresses that host-local has written down."""
    directory = host.directory / "host-local" / network
    return sorted(p.name for p in directory.glob("10.*")) if directory.is_dir() else []


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
    # an address in the way of the gateway that IPAM names: found out after its turn
    host.run("ip", "link", "add", "brhl2", "up", "type", "bridge")
    host.run("ip", "addr", "add", "10.77.0.9/25", "dev", "brhl2")
    config = conf(name="hl2", bridge="brhl2", ipam=host_local(host.directory))
    pod = host.pod()
    host.call("ADD", config, container, pod).refused(7)
    assert reserved(host, "hl2") == []
    assert not [r for r in host.records() if r[1] == container]
    assert [link["ifname"] for link in host.ip("link", "show", pod=pod)] == ["lo"]
    assert host.cables() == []
    assert (host.directory / "host-local" / "hl2").is_dir()  # it had its turn
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


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1", "0.4.0", "1.0.0"])
def test_our_ipam_serves_the_reference_bridge(host: CniHost, container: str, version: str) -> None:
    config = {
        "cniVersion": version,
        "name": "refbr",
        "type": "bridge",
        "bridge": "brref",
        "isDefaultGateway": True,
        "ipam": {"type": "flatmesh-ipam"},
    }
    pod = host.pod()
    result = host.call("ADD", config, container, pod, plugin="bridge").result()
    held = addresses(host, pod)
    assert len(held) == 2
    if version == "0.2.0":
        assert {result["ip4"]["ip"], result["ip6"]["ip"]} == held
    else:
        assert {ip["address"] for ip in result["ips"]} == held
    routes = {(r["dst"], r.get("gateway")) for r in host.ip("route", pod=pod)}
    assert {("default", "10.5.72.1"), ("10.5.0.0/16", "10.5.72.1")} <= routes
    if version in ("0.4.0", "1.0.0"):
        with_result = {**config, "prevResult": result}
        host.call("CHECK", with_result, container, pod, plugin="bridge").result()
    host.call("DEL", config, container, pod, plugin="bridge").result()
    host.call("DEL", config, container, pod, plugin="bridge").result()
    assert not [r for r in host.records() if r[1] == container]
    host.run("ip", "link", "del", "brref")


def test_our_ipam_reads_host_local_s_config(host: CniHost, container: str) -> None:
    resolv = host.directory / "resolv.conf"
    resolv.write_text("nameserver 192.0.2.53\nsearch a.example b.example\noptions ndots:3\n")
    config = {
        "cniVersion": "1.0.0",
        "name": "ranges",
        "ipam": {
            "type": "flatmesh-ipam",
            "subnet": "10.90.0.0/24",
            "rangeStart": "10.90.0.100",
            "rangeEnd": "10.90.0.101",
            "gateway": "10.90.0.254",
            "ranges": [[{"subnet": "fd00:90::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "198.51.100.0/24", "gw": "10.90.0.253"}],
            "resolvConf": str(resolv),
            "dataDir": str(host.directory / "own-book"),
        },
    }

    def add(number: int, **more: Any) -> Answer:
        return host.call(
            "ADD", config, f"{container}-{number}", "/x", plugin="flatmesh-ipam", **more
        )

    first = add(1).result()
    assert "interfaces" not in first
    assert first["ips"] == [
        {"address": "10.90.0.100/24", "gateway": "10.90.0.254"},
        {"address": "fd00:90::2/64", "gateway": "fd00:90::1"},
    ]
    assert first["routes"][1] == {"dst": "198.51.100.0/24", "gw": "10.90.0.253"}
    assert first["dns"] == {
        "nameservers": ["192.0.2.53"],
        "search": ["a.example", "b.example"],
        "options": ["ndots:3"],
    }
    assert (host.directory / "own-book" / "addresses.sqlite").exists()
    add(1).refused(102)
    assert add(2).result()["ips"][0]["address"] == "10.90.0.101/24"
    add(3).refused(101)
    checked = {**config, "prevResult": first}
    host.call("CHECK", checked, f"{container}-1", "/x", plugin="flatmesh-ipam").result()
    for number in (1, 2, 3):
        for _ in range(2):
            host.call("DEL", config, f"{container}-{number}", plugin="flatmesh-ipam").result()
    host.call("CHECK", checked, f"{container}-1", "/x", plugin="flatmesh-ipam").refused(103)


@pytest.mark.parametrize("how", ["CNI_ARGS", "args.cni.ips", "runtimeConfig.ips"])
def test_an_address_can_be_asked_for(
    host: CniHost, container: str, conf: MakeConf, how: str
) -> None:
    changes: dict[str, Any] = {}
    environment = {}
    if how == "CNI_ARGS":
        environment = {"CNI_ARGS": "IgnoreUnknown=1;IP=10.5.74.9"}
    elif how == "args.cni.ips":
        changes = {"args": {"cni": {"ips": ["10.5.74.9"]}}}
    else:
        changes = {"runtimeConfig": {"ips": ["10.5.74.9/22"]}}
    pod = host.pod()
    config = conf(**changes)
    host.call("ADD", config, container, pod, environment=environment).result()
    assert "10.5.74.9/22" in addresses(host, pod)
    answer = host.call("ADD", config, f"{container}-2", host.pod(), environment=environment)
    assert "10.5.74.9" in answer.refused(101)
    host.call("DEL", config, container, pod).result()


def test_a_chain_of_debian_s_plugins_works(host: CniHost, container: str) -> None:
    conflist: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": "chain",
        "plugins": [
            {"type": "flatmesh"},
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
            {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}, "mtu": 1400},
            {"type": "firewall"},
        ],
    }
    if host.run("tc", "qdisc", "add", "dev", "lo", "root", "tbf", *TBF.split()).returncode:
        conflist["plugins"] = [p for p in conflist["plugins"] if p["type"] != "bandwidth"]
    host.run("tc", "qdisc", "del", "dev", "lo", "root")
    pod = host.pod()
    attachment = PodInterface(
        container,
        pod,
        capabilities={
            "portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}],
            "bandwidth": {"ingressRate": 1 << 20, "ingressBurst": 1 << 20},
        },
    )
    caller = runtime(host)
    try:
        result = caller.add(conflist, attachment)
    except PluginError as error:
        caller.delete(conflist, attachment)
        if "iptables" in str(error):
            pytest.skip(f"iptables does not work on this kernel: {error}")
        raise
    assert result["interfaces"][2]["name"] == "eth0"
    assert host.run("cat", "/proc/sys/net/core/somaxconn", pod=pod).stdout == "500\n"
    (link,) = host.ip("link", "show", "dev", "eth0", pod=pod)
    assert link["mtu"] == 1400
    assert through_host_port(host, container, pod) == "hello"
    # portmap 1.1.1 looks for IPv4's chains among IPv6's: no CHECK of its own ever passes
    others = [p for p in conflist["plugins"] if p["type"] != "portmap"]
    caller.check({**conflist, "plugins": others}, attachment, result)
    caller.delete(conflist, attachment, result)
    caller.delete(conflist, attachment, result)
    assert not [r for r in host.records() if r[1] == container]


TBF = "rate 1mbit burst 10kb latency 50ms"


SERVER = """
import socket
with socket.create_server(("", 80)) as server:
    print("listening", flush=True)
    server.accept()[0].sendall(b"hello")
"""
CLIENT = """
import socket
with socket.create_connection(("10.5.72.1", 18080), 30) as connection:
    print(connection.recv(99).decode())
"""


def through_host_port(host: CniHost, container: str, pod: str) -> str:
    """What a second pod hears from the first, by the host's port."""
    other = host.pod()
    host.call("ADD", None, f"{container}-other", other).result()
    server = subprocess.Popen(
        ["nsenter", f"--net={pod}", sys.executable, "-I", "-c", SERVER],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "listening\n"
        heard = host.run(sys.executable, "-I", "-c", CLIENT, pod=other)
    finally:
        server.kill()
        server.communicate()
    host.call("DEL", None, f"{container}-other", other).result()
    return heard.stdout.strip() or heard.stderr


@pytest.mark.parametrize("plugin", ["tuning", "portmap"])
def test_each_of_debian_s_plugins_follows_us(host: CniHost, container: str, plugin: str) -> None:
    keys_of: dict[str, dict[str, Any]] = {
        "tuning": {"sysctl": {"net.core.somaxconn": "501"}},
        "portmap": {"capabilities": {"portMappings": True}},
    }
    conflist = {
        "cniVersion": "0.4.0",
        "name": "two",
        "plugins": [{"type": "flatmesh"}, {"type": plugin, **keys_of[plugin]}],
    }
    pod = host.pod()
    attachment = PodInterface(container, pod)
    result = runtime(host).add(conflist, attachment)
    assert result["ips"][0]["version"] == "4"
    if plugin != "portmap":
        runtime(host).check(conflist, attachment, result)
    runtime(host).delete(conflist, attachment, result)


def flannel(host: CniHost, **changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "cbr0",
        "cniVersion": "0.3.1",
        "type": "flannel",
        "dataDir": str(host.directory / "flannel"),
        "ipam": {"dataDir": str(host.directory / "host-local")},
        "delegate": {"hairpinMode": True, "isDefaultGateway": True},
        **changes,
    }


def kept(host: CniHost) -> list[str]:
    directory = host.directory / "flannel"
    return sorted(p.name for p in directory.glob("[!.]*")) if directory.is_dir() else []


def test_a_flannel_conflist_works_unchanged(host: CniHost, container: str) -> None:
    config, pod = flannel(host), host.pod()
    result = host.call("ADD", config, container, pod, plugin="flannel").result()
    assert result["cniVersion"] == "0.3.1"
    assert result["interfaces"][0]["name"] == "cni0"
    assert len(addresses(host, pod)) == 2
    assert reserved(host, "cbr0") == [result["ips"][0]["address"].partition("/")[0]]
    (inside,) = host.ip("link", "show", "dev", "eth0", pod=pod)
    assert inside["mtu"] == 1450
    routes = {(r["dst"], r.get("gateway")) for r in host.ip("route", pod=pod)}
    assert {("default", "10.5.72.1"), ("10.5.0.0/16", "10.5.72.1")} <= routes
    assert kept(host) == [container]
    host.call("DEL", config, container, pod, plugin="flannel").result()
    assert kept(host) == []
    assert reserved(host, "cbr0") == []
    host.call("DEL", config, container, pod, plugin="flannel").result()
    host.run("ip", "link", "del", "cni0")


def test_flannel_s_state_stays_until_the_delegate_s_del_succeeds(
    host: CniHost, container: str
) -> None:
    config, pod = flannel(host), host.pod()
    host.call("ADD", config, container, pod, plugin="flannel").result()
    answer = host.call(
        "DEL",
        config,
        container,
        pod,
        plugin="flannel",
        environment={"CNI_PATH": "/nowhere"},
    )
    assert "bridge" in answer.refused(7)
    assert kept(host) == [container]
    host.call("DEL", config, container, pod, plugin="flannel").result()
    assert kept(host) == []
    assert reserved(host, "cbr0") == []
    host.run("ip", "link", "del", "cni0")


def test_flannel_takes_over_what_the_real_meta_plugin_left(host: CniHost, container: str) -> None:
    """Its state file names no interface, and its delegate was bridge with host-local."""
    config, pod = flannel(host), host.pod()
    host.call("ADD", config, container, pod, plugin="flannel").result()
    state = host.directory / "flannel" / container
    content = json.loads(state.read_text())
    del content["flatmesh.attachment"]
    state.write_text(json.dumps(content))
    host.call("DEL", config, container, pod, plugin="flannel").result()
    assert kept(host) == []
    assert reserved(host, "cbr0") == []
    host.run("ip", "link", "del", "cni0")


def test_flannel_joins_one_container_twice(host: CniHost, container: str) -> None:
    config, pod = flannel(host), host.pod()
    for ifname in ("eth0", "eth1"):
        host.call("ADD", config, container, pod, plugin="flannel", ifname=ifname).result()
    assert len(kept(host)) == 2
    host.call("DEL", config, container, pod, plugin="flannel", ifname="eth0").result()
    assert len(addresses(host, pod, "eth1")) == 2
    assert len(reserved(host, "cbr0")) == 1
    host.call("DEL", config, container, pod, plugin="flannel", ifname="eth1").result()
    assert kept(host) == []
    host.run("ip", "link", "del", "cni0")


@pytest.mark.parametrize("reason", ["bridge is not installed", "the section says so"])
def test_flannel_uses_our_own_bridge(host: CniHost, container: str, reason: str) -> None:
    config, pod = flannel(host), host.pod()
    environment = {"CNI_PATH": str(host.bin_dir)} if "not" in reason else {}
    if not environment:
        config["delegate"]["type"] = "flatmesh"
        config["delegate"]["bridge"] = "cni0"
    call = {"plugin": "flannel", "environment": environment}
    result = host.call("ADD", config, container, pod, **call).result()
    assert result["interfaces"][0]["name"] == "cni0"
    assert len(addresses(host, pod)) == 2
    assert ("cbr0", container, "eth0") in host.records()
    host.call("DEL", config, container, pod, **call).result()
    assert not host.records()
    host.run("ip", "link", "del", "cni0")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"delegate": []}, "delegate"),
        ({"delegate": {"name": "x"}}, "name"),
        ({"delegate": {"ipam": {}}}, "ipam"),
        ({"dataDir": 7}, "dataDir"),
        ({"dataDir": "relative"}, "dataDir"),
        ({"ipam": []}, "ipam"),
    ],
)
def test_a_bad_flannel_config_is_refused(
    host: CniHost, container: str, changes: dict[str, Any], word: str
) -> None:
    config = flannel(host, **changes)
    answer = host.call("ADD", config, container, host.pod(), plugin="flannel")
    assert word in answer.refused(7)
    assert kept(host) == []


def test_flannel_without_a_lease_is_refused(host: CniHost, container: str) -> None:
    (host.directory / "subnet.env").unlink()
    answer = host.call("ADD", flannel(host), container, host.pod(), plugin="flannel")
    assert "no lease" in answer.refused(50)
