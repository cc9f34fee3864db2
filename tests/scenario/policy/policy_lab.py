# SPDX-License-Identifier: Apache-2.0
"""Pods with labels, policies, and who reaches whom, in a lab with a real API server."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hostnet.netns import run_in
from lab import hosts
from lab.cluster import Lab
from lab.daemon import LabDaemon
from lab.processes import NETNS_DIR
from lab.spec import LabPod
from lab.time_factor import scaled
from tests.kubernetes.api_server import ApiServer

POLICIES = "/apis/networking.k8s.io/v1/namespaces"
TIMEOUT = 0.5  # seconds until a packet that is not answered was refused


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyLab:
    """Two hosts, h1 and h2; their Nodes have the same names."""

    lab: Lab
    server: ApiServer
    pods: dict[str, LabPod] = dataclasses.field(default_factory=dict)
    """By `namespace/name`."""

    # -- hosts ---------------------------------------------------------------------------

    def configure(self, **backend: Any) -> None:
        """Change the ConfigMap."""
        path = self.lab.directory / "net-conf.json"
        new = path.with_suffix(".new")
        networks = {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd24::/48"}
        new.write_text(json.dumps({**networks, "Backend": backend}))
        new.replace(path)

    def subnets(self, number: int) -> tuple[str, str]:
        return f"10.244.{number}.0/24", f"fd24:0:0:{number}::/64"

    def daemon(self, number: int) -> LabDaemon:
        """A host's daemon, as the DaemonSet runs it, with --network-policy."""
        kubeconfig = self.server.kubeconfig(self.lab.directory / "kubeconfig")
        there = self.lab.daemon(number)
        argv = [one for one in there.argv if not one.startswith("--etcd")]
        flags = (
            "--kube-subnet-mgr",
            "--network-policy",
            f"--kubeconfig-file={kubeconfig}",
            f"--net-config-path={self.lab.directory / 'net-conf.json'}",
        )
        environment = {**there.environment, "NODE_NAME": f"h{number}"}
        return dataclasses.replace(there, argv=(*argv, *flags), environment=environment)

    def backend_of(self, number: int) -> str:
        """What a host's Node says."""
        found = self.server.node(f"h{number}")["metadata"]["annotations"]
        return str(found.get("flannel.alpha.coreos.com/backend-type"))

    # -- pods ----------------------------------------------------------------------------

    def namespace(self, name: str, **labels: str) -> None:
        body = {"metadata": {"name": name, "labels": labels}}
        self.server.ask("POST", "/api/v1/namespaces", body)

    def declare(self, number: int, key: str, **labels: str) -> None:
        """Make a Pod that is bound to a host, which has not made it yet."""
        namespace, _, name = key.partition("/")
        ports = [{"name": "http", "containerPort": 8080}]
        container = {"name": "c", "image": "none", "ports": ports}
        body = {
            "metadata": {"name": name, "labels": labels},
            "spec": {"nodeName": f"h{number}", "containers": [container]},
        }
        self.server.ask("POST", f"/api/v1/namespaces/{namespace}/pods", body)

    def attach(self, number: int, key: str, **more: Any) -> LabPod:
        """ADD, as the kubelet has it done; its addresses are not told to the API server.

        `more` are further keys of the plugin's config.
        """
        namespace, _, name = key.partition("/")
        lab, made = self.lab, f"{namespace}-{name}"
        path = hosts.make_pod(lab.names, number, made)
        arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}"
        interface = dataclasses.replace(lab.pod_interface(number, made), args=arguments)
        conflist = {**lab.conflist, "plugins": [{**lab.conflist["plugins"][0], **more}]}
        result = lab.runtime(number).add(conflist, interface)
        self.pods[key] = LabPod(number, made, path.name, result)
        return self.pods[key]

    def tell(self, key: str) -> None:
        """Write a pod's addresses into its status, as the kubelet does."""
        namespace, _, name = key.partition("/")
        told = self.pods[key].addresses
        status = {"podIPs": [{"ip": one} for one in told], "podIP": told[0], "phase": "Running"}
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/status"
        self.server.ask("PATCH", path, {"status": status}, "merge-patch+json")

    def make(self, number: int, key: str, **labels: str) -> LabPod:
        """A pod, from its declaration to its status."""
        self.declare(number, key, **labels)
        pod = self.attach(number, key)
        self.tell(key)
        return pod

    def label(self, path: str, **labels: str | None) -> None:
        """Change labels of a pod `shop/web` or of a namespace `shop`; None removes one."""
        namespace, _, name = path.partition("/")
        pod = f"/pods/{name}" if name else ""
        body = {"metadata": {"labels": labels}}
        self.server.ask("PATCH", f"/api/v1/namespaces/{namespace}{pod}", body, "merge-patch+json")

    # -- policies --------------------------------------------------------------------------

    def policy(self, key: str, **spec: Any) -> None:
        namespace, _, name = key.partition("/")
        body = {"metadata": {"name": name}, "spec": {"podSelector": {}, **spec}}
        self.server.ask("POST", f"{POLICIES}/{namespace}/networkpolicies", body)

    def remove_policies(self, namespace: str) -> None:
        self.server.ask("DELETE", f"{POLICIES}/{namespace}/networkpolicies")

    # -- who reaches whom ------------------------------------------------------------------

    def netns(self, name: str) -> str:
        """Of a pod `shop/web`, or of a host `h1`."""
        return self.pods[name].netns if name in self.pods else self.lab.names.host(int(name[1:]))

    def reach(self, target: str, port: int, *clients: str) -> dict[str, bool]:
        """Who gets an answer of a pod's server, by each of its addresses: both must agree."""
        found = self._answers(target, port, *clients)
        return {client: all(answered) for client, answered in found.items()}

    def blocked(self, target: str, port: int, client: str) -> bool:
        """Whether none of a pod's addresses answers."""
        return not any(self._answers(target, port, client)[client])

    def _answers(self, target: str, port: int, *clients: str) -> dict[str, list[bool]]:
        addresses = self.pods[target].addresses
        with ThreadPoolExecutor(len(clients) * len(addresses)) as threads:
            found = {
                client: [
                    threads.submit(answers, self.netns(client), one, port) for one in addresses
                ]
                for client in clients
            }
            return {client: [one.result() for one in tried] for client, tried in found.items()}


def answers(netns: str, address: str, port: int) -> bool:
    """Whether a server answers on TCP."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with run_in(NETNS_DIR / netns, lambda: socket.socket(family)) as client:
        client.settimeout(scaled(TIMEOUT))
        try:
            client.connect((address, port))
            client.sendall(b"x")
            return client.recv(1) == b"x"
        except OSError:
            return False


@contextlib.contextmanager
def connection(netns: str, address: str, port: int) -> Iterator[socket.socket]:
    """A connection that stays open."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with run_in(NETNS_DIR / netns, lambda: socket.socket(family)) as client:
        client.settimeout(scaled(10))
        client.connect((address, port))
        yield client


def alive(client: socket.socket) -> bool:
    """Whether a connection still carries a byte there and back."""
    client.settimeout(scaled(TIMEOUT))
    try:
        client.sendall(b"x")
        return client.recv(16) != b""
    except OSError:
        return False


def receives_datagrams(sender: str, receiver: str, target: str, size: int = 10) -> bool:
    """Whether a datagram to some address (`ff02::1%eth0`) comes to a socket of the receiver."""
    address, _, device = target.partition("%")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def outward() -> tuple[socket.socket, int]:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return made, socket.if_nametoindex(device) if device else 0

    def inward() -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.bind(("", 9999))
        return made

    one, scope = run_in(NETNS_DIR / sender, outward)
    with one, run_in(NETNS_DIR / receiver, inward) as other:
        other.settimeout(scaled(0.3))
        where = (address, 9999, 0, scope) if family == socket.AF_INET6 else (address, 9999)
        with contextlib.suppress(TimeoutError, OSError):
            one.sendto(bytes(size), where)
            return len(other.recv(65536)) == size
    return False
