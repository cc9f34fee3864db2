# SPDX-License-Identifier: Apache-2.0
"""Mistakes with `flatmesh config`, `lease`, `wireguard` and `lab`."""

from __future__ import annotations

import json
from typing import Any

from tests.scenario.mistakes.row import Mistake


def config(document: Any, expected: str, what: str = "set", status: int = 1) -> Mistake:
    text = document if isinstance(document, str) else json.dumps(document)
    name = f"config {what}: {expected[:50]}"
    return Mistake(name, f"flatmesh config {what} '{text}'", expected, status)


def with_backend(**backend: Any) -> dict[str, Any]:
    return {"Network": "10.5.0.0/16", "Backend": backend}


def usage(command: str, expected: str) -> Mistake:
    return Mistake(command[:60], f"flatmesh {command}", expected, status=2, only_line=False)


FILE = "{tmp}/cluster.json is a file: read it with - < {tmp}/cluster.json"
ROWS = (
    config("{tmp}/cluster.json", FILE),
    config("{tmp}/cluster.json", FILE, "diff"),
    config("cluster.json", "the config 'cluster.json' is no JSON object: write e.g."),
    config("", "the config '' is no JSON object: write e.g."),
    Mistake("config set - with nothing", "flatmesh config set -", "cluster config is not JSON"),
    config("{", "cluster config is not JSON: Expecting property name"),
    config({}, 'Network is missing: add e.g. "Network":"10.5.0.0/16"'),
    config({"Network": "10.5.0.0/16"}, "Backend.Type is missing, which means udp; it was vxlan"),
    config({"Network": "10.5.0.0/16", "Backend": "vxlan"}, 'write e.g. "Backend":'),
    config({"Network": "10.5.0.0/16", "Type": "vxlan"}, "Type is a key of Backend: write"),
    config({"Netwrk": "10.5.0.0/16"}, "Netwrk is no key; did you mean Network?"),
    config({**with_backend(), "SubnetLength": 24}, "SubnetLength is no key; did you mean Sub"),
    config(with_backend(Type="vxlan", Prt=1), "Backend.Prt is no key; did you mean Port?"),
    config(with_backend(Type="vxlan", VNIs=7), "Backend.VNIs is no key; did you mean VNI?"),
    config(with_backend(Type="vxlan", VNI="7"), 'VNI is "7"; it must be a whole number'),
    config(with_backend(Type="vxlna"), "'vxlna' is unknown; did you mean vxlan?"),
    config(with_backend(Type="ipsec"), "use one of vxlan, host-gw, udp, wireguard, ovs"),
    config({"Network": "10.5.0.0"}, 'write address and prefix length, e.g. "10.5.0.0/16"'),
    config({"Network": "10.5.0.0/33"}, "'33' is not a valid netmask; write e.g."),
    config({"Network": "192.168.64.0/20", "Backend": {"Type": "vxlan"}}, "overlaps address 192."),
    usage("conifg", "No such command 'conifg'. Did you mean 'config'?"),
    usage("config sett", "No such command 'sett'. Did you mean 'set'?"),
    usage("lease list --etcd-endpoint http://127.0.0.1:2379", "'--etcd-endpoints'"),
    usage("lease list -o jsn", "'jsn': did you mean 'json'? It is one of table, json, yaml, wide"),
    usage("config show banana", "Got unexpected extra argument (banana)"),
    Mistake(
        "misspelt variable",
        "flatmesh lease list",
        "FLANNELD_ETCD_ENDPOINT is no setting of flatmeshd and has no effect: did you mean FLA",
        status=0,
        environment={"FLANNELD_ETCD_ENDPOINT": "http://127.0.0.1:1"},
        only_line=False,
    ),
    Mistake(
        "release of no subnet",
        "flatmesh lease release banana",
        "'banana' is no subnet such as 10.5.1.0/24",
    ),
    Mistake(
        "release of nobody's subnet",
        "flatmesh lease release 10.5.0.0/24",
        "nobody holds 10.5.0.0/24: flatmesh lease list shows who holds what",
    ),
    Mistake(
        "reservation for no address",
        "flatmesh lease reserve 10.5.1.0/24 --public-ip banana",
        "'banana' does not appear to be an IPv4 or IPv6 address",
    ),
    usage("config set", "Missing argument 'CONFIG'"),
    usage("lease reserve 10.5.1.0/24", "Missing option '--public-ip'"),
    Mistake(
        "lease of another network",
        "flatmesh lease reserve 10.9.1.0/24 --public-ip 192.168.64.12",
        "10.9.1.0/24 is no subnet of 10.5.0.0/16",
    ),
    Mistake(
        "no key to rotate",
        "flatmesh wireguard rotate-key",
        "this host has no WireGuard key to replace: flatmeshd makes one when Backend.Type is",
    ),
    usage("lab up --backend vxlna", "vxlan"),
    usage("lab up --tunnel gre", "--tunnel: only with --backend ovs"),
    usage("lab up --backend host-gw --mesh flow", "--mesh: only with --backend ovs"),
    usage("lab up --backend-config banana", "--backend-config: not JSON"),
    usage("lab up --hosts 0", "0 is not in the range 1<=x<=200"),
    usage("lab up --mtu 100", "100 is not in the range 1360<=x<=65535"),
    usage("lab up --dir {tmp}/wrong", "is a file"),
    Mistake("lab up: misspelt key", "flatmesh lab up --backend-config '{\"Prt\":1}'", "mean Port?"),
    Mistake("lab up: name", "flatmesh lab up --name A", "lab name 'A': use 1 to 20 lower-case"),
    Mistake(
        "lab status: none", "flatmesh lab status", "there is no lab 'lab'; make one with: flat"
    ),
    Mistake("lab exec: none", "flatmesh lab exec h1 ip", "there is no lab 'lab'; make one with"),
)
