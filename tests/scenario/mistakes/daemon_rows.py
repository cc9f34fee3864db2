# SPDX-License-Identifier: Apache-2.0
"""Mistakes with flatmeshd, also with --dry-run, where each is final."""

from __future__ import annotations

from tests.scenario.mistakes.row import Mistake

FLAGS = {
    "run directory": (
        "--run-dir=/proc/nothing",
        "--run-dir /proc/nothing can't be made or written: No such file or directory; name a",
    ),
    "run directory is a file": ("--run-dir={tmp}/wrong", "--run-dir {tmp}/wrong is no directory"),
    "state directory": (
        "--state-dir=/proc/nothing",
        "--state-dir /proc/nothing can't be made or written: No such file or directory; name a",
    ),
    "state directory is a file": (
        "--state-dir={tmp}/wrong",
        "--state-dir {tmp}/wrong is no directory",
    ),
    "port of /healthz in use": (
        "--healthz-port={etcd}",
        "--healthz-port {etcd}: TCP port {etcd} is in use by etcd (pid ",
    ),
    "Kubernetes outside of a pod": (
        "--kube-subnet-mgr",
        "no API server: this is no pod of Kubernetes (KUBERNETES_SERVICE_HOST is not set); give",
    ),
    "kubeconfig": (
        "--kube-subnet-mgr --kubeconfig-file=/nothing",
        "/nothing: No such file or directory",
    ),
    "URL of the API server": (
        "--kube-subnet-mgr --kube-api-url=banana",
        "--kube-api-url: 'banana' is not http(s)://HOST:PORT",
    ),
    "annotations' prefix": (
        "--kube-subnet-mgr --kube-api-url=http://127.0.0.1:1 --kube-annotation-prefix=Banana",
        "--kube-annotation-prefix 'Banana': it must be a domain, as flannel.alpha.coreos.com",
    ),
    "address of /healthz of another host": (
        "--healthz-ip=203.0.113.1 --healthz-port=9000",
        "this host doesn't have the address: give one of its own, or 0.0.0.0",
    ),
}
USAGE = {
    "address of /healthz": ("--healthz-ip=banana", "'banana' is no IP address"),
    "port of /healthz": ("--healthz-port=99999", "99999 is not in the range"),
    "public address": ("--public-ip=banana", "Expected 4 octets in 'banana'"),
    "resync": ("--resync=0", "is not in the range x>=1"),
    "log level": ("--log-level=loud", "debug"),
    "boolean": ("--ip-masq=banana", "'banana' is not a valid boolean"),
    "misspelt flag": ("--ifac=eth0", "No such option '--ifac'. (Did you mean one of: "),
    "argument": ("banana", "Got unexpected extra argument (banana)"),
}
PLANS = {
    "no such device": (
        "--iface=nope0",
        "--iface 'nope0' matches no device or address here (devices: eth0",
    ),
    "no regular expression": ("--iface-regex=[", "and no regular expression: unterminated"),
    "subnet file": (
        "--subnet-file=/proc/nothing/subnet.env",
        "--subnet-file /proc/nothing can't be made or written: No such file or directory",
    ),
    "no config": (
        "--etcd-prefix=/typo",
        "no cluster config at /typo/config: write one with flatmesh config set",
    ),
    "config is no JSON": ("--etcd-prefix=/junk", "/junk/config: cluster config is not JSON"),
}
NAT = "--public-ip 203.0.113.9 is no address of eth0 (192.168.64.11): behind 1:1 NAT that is right"
LARGE = "Backend.MTU 9000 is above the 1500 of eth0: large packets get lost; leave the key out, or"
ROWS = (
    *(
        Mistake(f"flatmeshd: {name}", f"flatmeshd {flags}", f"flatmeshd: {words}", only_line=False)
        if words.startswith("--run-dir")
        else Mistake(f"flatmeshd: {name}", f"flatmeshd {flags}", words, only_line=False)
        for name, (flags, words) in FLAGS.items()
    ),
    *(
        Mistake(f"--dry-run: {name}", f"flatmeshd --dry-run {flags}", words)
        for name, (flags, words) in (FLAGS | PLANS).items()
        if name not in ("run directory is a file", "state directory")
    ),
    *(
        Mistake(f"usage: {name}", f"flatmeshd {flags}", words, status=2, only_line=False)
        for name, (flags, words) in USAGE.items()
    ),
    Mistake(
        "variable: public address",
        "flatmeshd --dry-run",
        "Expected 4 octets in 'banana'",
        status=2,
        environment={"FLANNELD_PUBLIC_IP": "banana"},
        only_line=False,
    ),
    Mistake("flatmeshd: no such device", "flatmeshd --iface=nope0", "(devices: eth0", status=None),
    Mistake(
        "flatmeshd: subnet file",
        "flatmeshd --subnet-file=/proc/nothing/subnet.env",
        "/proc/nothing/subnet.env can't be written: No such file or directory. CNI plugins read",
        status=None,
    ),
    Mistake(
        "flatmeshd: public address of another host",
        "flatmeshd --public-ip=203.0.113.9",
        NAT,
        status=None,
    ),
    Mistake(
        "--dry-run: public address of another host",
        "flatmeshd --dry-run --public-ip=203.0.113.9",
        f"# {NAT}",
        status=0,
        only_line=False,
    ),
    Mistake(
        "flatmeshd: MTU above the underlay's", "flatmeshd --etcd-prefix=/large", LARGE, status=None
    ),
    Mistake(
        "--dry-run: MTU above the underlay's",
        "flatmeshd --dry-run --etcd-prefix=/large",
        LARGE,
        status=0,
        only_line=False,
    ),
)
