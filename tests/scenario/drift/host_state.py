# SPDX-License-Identifier: Apache-2.0
"""What a host holds, to be compared before and after; and what to do to it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from flannel.udp.control import UdpFiles, call
from lab import processes
from lab.cluster import Lab
from ovs_mesh.pipeline import COOKIE

PORT_FLAGS = (
    *("state", "hairpin", "isolated", "learning", "flood", "mcast_flood", "bcast_flood"),
    *("locked", "guard", "root_block", "neigh_suppress"),
)
PORT_CONFIG = re.compile(r"\((\S+)\): addr:.*\n +config: +(.*)")
ARRIVAL = {
    "vxlan": "flannel/1",  # sysctl writes a dot so
    "udp": "flannel0",
    "wireguard": "flannel-wg",
    "host-gw": "eth0",
}
HOST = 1
"""The host that is disturbed; the other one is its peer."""


def run(lab: Lab, command: str, *, check: bool = True) -> str:
    """A command in the host's namespace; its output."""
    argv = [*processes.enter(lab.names.host(HOST)), *command.split()]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{command}: {done.stderr}{done.stdout}")
    return done.stdout


def rows(lab: Lab, command: str) -> list[dict[str, Any]]:
    """What `ip` and `bridge` print as JSON; nothing where a device is not there."""
    text = run(lab, command, check=False).strip()
    found: list[dict[str, Any]] = json.loads(text) if text else []
    return [row for row in found if row]


def state(lab: Lab) -> dict[str, Any]:
    """All that flatmesh makes on the host, without indexes, counters, ages and learned entries."""
    names = {row["ifname"]: row for row in rows(lab, "ip -d -json link show")}
    ours = [name for name in names if not name.startswith(("lo", "foreign", "ovs-", "eth"))]
    found: dict[str, Any] = {
        "links": {name: _link(names[name]) for name in ours},
        "addresses": sorted(
            (row["ifname"], info["local"], info["prefixlen"])
            for row in rows(lab, "ip -json addr show")
            for info in row["addr_info"]
            if info["scope"] == "global"
        ),
        "routes": sorted(
            _route(row)
            for family in ("-4", "-6")
            for row in rows(lab, f"ip {family} -json -d route")
            if not row["dst"].startswith("fe80")
        ),
        "neighbours": sorted(
            (row["dst"], row["dev"], row["lladdr"])
            for row in rows(lab, "ip -json neigh show nud permanent")
        ),
        "FDB": sorted(
            (row["mac"], row["dst"], row.get("port", ""))
            for name in ours
            if name.startswith("flannel")
            for row in rows(lab, f"bridge -json fdb show dev {name}")
            if "dst" in row
        ),
        "nftables": _nftables(run(lab, "nft -s list ruleset")),
        "sysctls": run(
            lab,
            "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding"
            " net.ipv4.conf.all.send_redirects net.ipv4.conf.kbr0.forwarding"
            + "".join(f" net.ipv4.conf.{name}.forwarding" for name in ARRIVAL.values()),
            check=False,
        ),
        "subnet.env": (run_dir(lab) / "subnet.env").exists(),
    }
    if lab.spec.backend["Type"] == "ovs":
        found |= _switch(lab)
    if lab.spec.backend["Type"] == "wireguard":
        found["WireGuard"] = _wireguard(lab)
    if lab.spec.backend["Type"] == "udp":
        found["udp"] = call(UdpFiles(run_dir(lab)), {"op": "table"})["table"]
    return found


def _link(row: dict[str, Any]) -> dict[str, Any]:
    info = row.get("linkinfo", {})
    by_chance = row["ifname"] == "obr0" or (
        info.get("info_kind") == "veth" and row.get("ifalias") == "flatmesh"
    )
    data, port = info.get("info_data", {}), info.get("info_slave_data", {})
    return {
        "kind": info.get("info_kind"),
        "up": "UP" in row["flags"],
        "mtu": row["mtu"],
        "mac": None if by_chance else row.get("address"),
        "alias": row.get("ifalias"),
        "master": row.get("master"),
        "vxlan": [data.get(key) for key in ("id", "port", "local", "learning", "ttl")],
        "port": [port.get(key) for key in PORT_FLAGS],
        "filters VLANs": data.get("vlan_filtering"),
    }


def _route(row: dict[str, Any]) -> tuple[str, ...]:
    keys = ("dst", "type", "gateway", "dev", "metric", "protocol")
    return tuple(str(row.get(key, "")) for key in keys)


def _nftables(text: str) -> list[str]:
    """The words of our tables; iptables' and foreign ones are not among them."""
    tables = ["table " + part for part in text.split("table ")[1:]]
    mine = [part for part in tables if "flatmesh" in part.split("{")[0]]
    return sorted(word for part in mine for word in part.replace(",", " ").split())


def _switch(lab: Lab) -> dict[str, Any]:
    show = lab.ovs(HOST).vsctl
    columns = {
        "bridge": "name,fail_mode,datapath_type,stp_enable,rstp_enable",
        "port": "name,tag,external_ids",
        "interface": "name,type,options,external_ids",
    }
    found: dict[str, Any] = {}
    offload = run(lab, "ethtool -k kbr0-obr0", check=False)
    found["offload"] = [line for line in offload.splitlines() if "tx-checksumming" in line]
    for table, names in columns.items():
        text = show("--format=json", f"--columns={names}", "list", table)
        found[f"OVS {table}"] = sorted(map(json.dumps, json.loads(text)["data"]))
    for bridge in ("obr0", "obr0-phy"):
        text = run(lab, ofctl(lab, "dump-flows", bridge, "--no-stats", "--names"), check=False)
        # the switch chooses its device's MAC by chance
        mac = next((row["address"] for row in rows(lab, "ip -json link show obr0")), "")
        for form in (mac, f"0x{mac.replace(':', '').lstrip('0')}"):
            text = text.replace(form, "MAC-OF-OBR0")
        found[f"flows of {bridge}"] = sorted(
            line.strip() for line in text.splitlines() if f"{COOKIE:#x}" in line
        )
        text = run(lab, ofctl10(lab, "dump-ports-desc", bridge), check=False)
        found[f"port flags of {bridge}"] = sorted(PORT_CONFIG.findall(text))
    routes = run(lab, appctl(lab, "ovs/route/show"), check=False)
    found["OVS routes"] = sorted(line for line in routes.splitlines() if line.startswith("User"))
    return found


def _wireguard(lab: Lab) -> list[str]:
    changing = ("last_handshake", "rx_bytes", "tx_bytes")
    return sorted(line for line in uapi(lab, "get=1").split() if not line.startswith(changing))


def ofctl(lab: Lab, command: str, bridge: str, *more: str) -> str:
    directory = lab.ovs(HOST).directory
    flags = [word for word in more if word.startswith("-")]
    rest = [word for word in more if not word.startswith("-")]
    target = f"unix:{directory}/{bridge}.mgmt"
    return " ".join(["ovs-ofctl -O OpenFlow14", *flags, command, target, *rest])


def ofctl10(lab: Lab, *words: str) -> str:
    """OpenFlow 1.0 has more flags of ports than later versions."""
    return ofctl(lab, *words).replace("OpenFlow14", "OpenFlow10")


def appctl(lab: Lab, *words: str) -> str:
    server = lab.ovs(HOST)
    target = f"{server.directory}/ovs-vswitchd.{server.pid('ovs-vswitchd')}.ctl"
    return f"ovs-appctl -t {target} {' '.join(words)}"


def run_dir(lab: Lab) -> Path:
    return lab.host_dir(HOST) / "run"


def uapi(lab: Lab, *lines: str) -> str:
    """Ask wireguard-go."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        directory = os.open(run_dir(lab) / "wireguard", os.O_PATH)
        try:
            connection.connect(f"/proc/self/fd/{directory}/flannel-wg.sock")
        finally:
            os.close(directory)
        connection.sendall(("\n".join(lines) + "\n\n").encode())
        answer = b""
        while not answer.endswith(b"\n\n"):
            chunk = connection.recv(1 << 16)
            assert chunk
            answer += chunk
    return answer.decode()


def process(lab: Lab) -> int:
    """The pid of the data plane's process."""
    if lab.spec.backend["Type"] == "udp":
        return int((run_dir(lab) / "udp.pid").read_text())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        directory = os.open(run_dir(lab) / "wireguard", os.O_PATH)
        try:
            connection.connect(f"/proc/self/fd/{directory}/flannel-wg.sock")
        finally:
            os.close(directory)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[:4], "little")


def words(lab: Lab) -> dict[str, str]:
    """What the words in braces of the table mean on this host."""
    kind = lab.spec.backend["Type"]
    subnet = lab.subnet(2)
    device = {**ARRIVAL, "vxlan": "flannel.1", "host-gw": ""}.get(kind, "")
    hops = [row for row in rows(lab, "ip -json nexthop") if row.get("protocol") == "102"]
    peers = rows(lab, "ip -json neigh show nud permanent")
    links = rows(lab, "ip -d -json link show type veth")
    pod = next(row for row in links if "flatmesh-pod" in row.get("ifalias", ""))
    hairpin = pod["linkinfo"].get("info_slave_data", {}).get("hairpin")
    routes6 = [row["dst"] for row in rows(lab, "ip -6 -json route show proto 102")]
    on_obr0 = lab.spec.backend.get("PodAttach") == "obr0"
    return {
        "device": device,
        "arrival": ARRIVAL.get(kind, ""),
        "net": "10.5.0.0/16" if kind == "udp" else subnet,
        "net6": next(iter(routes6), ""),
        "base": subnet.partition("/")[0],
        "mac": next((row["lladdr"] for row in peers if row["dev"] == "flannel.1"), ""),
        "peer": "192.168.64.12",
        "hop": next((str(row["id"]) for row in hops if ":" not in row.get("gateway", "")), ""),
        "gateway": lab.subnet(1).replace(".0/", ".1/"),
        "veth": pod["ifname"],
        "other": "off" if hairpin else "on",
        "tunnel": "192.168.64.12" if on_obr0 else "mesh-gre",
        "inward": pod["ifname"] if on_obr0 else "obr0-kbr0",
        "guard": "flatmesh_guard",
        "redirect": "netdev flatmesh_ovs",
        "cookie": f"{COOKIE:#x}",
        "process": str(process(lab)) if kind in ("udp", "wireguard") else "",
        "run": str(run_dir(lab)),
    }


def disturb(lab: Lab, commands: str) -> None:
    """Do it."""
    for command in commands.format(**words(lab)).split(" ; "):
        verb, _, rest = command.partition(" ")
        match verb:
            case "VSCTL":
                # as another program would: without waiting for what the daemon makes of it
                lab.ovs(HOST).vsctl("--no-wait", *rest.split())
            case "OFCTL":
                run(lab, ofctl(lab, *rest.split()))
            case "OFPORT":
                run(lab, ofctl10(lab, "mod-port", "obr0", *rest.split()))
            case "APPCTL":
                run(lab, appctl(lab, *rest.split()))
            case "UAPI":
                lines = uapi(lab, "get=1").split()
                peer = next(line for line in lines if line.startswith("public_key="))
                assert "errno=0" in uapi(lab, "set=1", peer, *rest.split())
            case "UDP-TABLE":
                files = UdpFiles(run_dir(lab))
                table = call(files, {"op": "table"})["table"]
                call(files, {"op": "set table", "table": {**table, "peers": []}})
            case "KILL":
                os.kill(int(rest), signal.SIGKILL)
            case "ADD":
                lab.add_pod(HOST, "other")
                lab.delete_pod(HOST, "other")
            case _:
                run(lab, command)
