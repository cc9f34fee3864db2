# SPDX-License-Identifier: Apache-2.0
"""Names of services, asked by pods of their own host's responder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import dns.exception
import dns.message
import dns.rcode
import pytest

from hostnet.netns import run_in
from lab.cluster import Lab
from lab.hosts import UNDERLAY_IPV4
from lab.processes import NETNS_DIR
from lab.spec import LabPod
from lab.time_factor import scaled
from services.names.control import NamesClient
from tests.scenario.conftest import running_lab
from tests.scenario.services.names.resolver import FakeResolver, by_the_c_library, resolve, values
from tests.scenario.services.service_lab import NETWORKS, Eventually

ZONE = "flatmesh.internal"
OUTSIDE = f"{UNDERLAY_IPV4}.1"


class NamesLab:
    """A lab whose hosts answer names, with a service `web`, a pod on each host, a resolver."""

    def __init__(self, lab: Lab, resolver: FakeResolver) -> None:
        self.lab = lab
        self.resolver = resolver
        self.pods = {pod.host: pod for pod in lab.pods}

    def ask(self, name: str, kind: str = "A", *, host: int = 1, tcp: bool = False) -> list[str]:
        """What a pod of a host is answered by its first name server; empty: nothing."""
        with contextlib.suppress(dns.exception.Timeout, OSError):
            return values(self.message(name, kind, host=host, tcp=tcp))
        return []

    def message(
        self, name: str, kind: str = "A", *, host: int = 1, tcp: bool = False
    ) -> dns.message.Message:
        pod = self.pods[host]
        return resolve(pod.netns, servers_of(pod)[0], name, kind, tcp=tcp)

    def finds_all(self, host: int) -> bool:
        """Whether a pod finds the three endpoints by their service's name."""
        return len(self.ask(f"tasks.web.{ZONE}", host=host)) == 3

    def responder(self, number: int) -> int | None:
        """The pid of a host's responder; None: none answers."""
        with contextlib.suppress(OSError):
            client = NamesClient(self.lab.host_dir(number) / "run")
            try:
                return int(client.call("status")["pid"])
            finally:
                client.close()
        return None


def servers_of(pod: LabPod) -> list[str]:
    return list(pod.result["dns"]["nameservers"])


def _holds(file: Path, text: str) -> bool:
    return text in file.read_text()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + scaled(30)
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@contextlib.contextmanager
def names_lab(lab: Lab, resolv_conf: Path) -> Iterator[NamesLab]:
    """Name the services of a lab without pods, and add pods and a service."""
    lab.configure(lab.spec.cluster_config() | NETWORKS | {"ServiceZone": ZONE})
    for number in lab.host_numbers:
        env = lab.host_dir(number) / "run/subnet.env"
        wait_for(partial(_holds, env, ZONE), f"h{number} writes the zone")
        lab.add_pod(number, "p1")
    with FakeResolver(lab.names.underlay, OUTSIDE) as resolver:
        resolv_conf.write_text(f"nameserver {OUTSIDE}\n")
        found = NamesLab(lab, resolver)
        lab.flatmesh("service", "set", "web", "--port", "http=80:8080")
        for number, pod in found.pods.items():
            addresses = [f"--address={one}" for one in pod.addresses]
            lab.flatmesh("endpoint", "set", "web", f"e{number}", *addresses)
        for number, pod in found.pods.items():
            wait_for(partial(found.finds_all, number), f"{pod.name} of h{number} finds three")
        yield found


@pytest.fixture(scope="module")
def resolv_conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The hosts' resolv.conf."""
    path = tmp_path_factory.mktemp("etc") / "resolv.conf"
    path.write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLATMESH_RESOLV_CONF", str(path))
        yield path


@pytest.fixture(scope="module")
def named(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    resolv_conf: Path,
) -> Iterator[NamesLab]:
    directory = tmp_path_factory.mktemp("labs")
    with (
        running_lab(request.config, directory, ipv6=True, pods_per_host=0) as lab,
        names_lab(lab, resolv_conf) as found,
    ):
        yield found


def virtual(lab: Lab, version: int) -> str:
    (service,) = json.loads(lab.flatmesh("service", "list", "-o", "json"))
    return next(str(one) for one in service["addresses"] if (":" in one) == (version == 6))


def test_pods_are_told_their_gateways_and_resolve_names_by_the_c_library(
    named: NamesLab, tmp_path: Path
) -> None:
    for pod in named.pods.values():
        told = pod.result["dns"]
        assert told["search"] == [ZONE]
        assert len(told["nameservers"]) == 2
        lines = [f"nameserver {one}" for one in told["nameservers"]]
        file = tmp_path / "resolv.conf"
        options = " ".join(told["options"])
        file.write_text("\n".join([*lines, f"search {ZONE}", f"options {options}", ""]))
        wanted = {virtual(named.lab, 4), virtual(named.lab, 6)}
        assert by_the_c_library(pod.netns, file, "web") == wanted
        tasks = {one for each in named.pods.values() for one in each.addresses}
        assert by_the_c_library(pod.netns, file, "tasks.web") == tasks
        assert "192.0.2.1" in by_the_c_library(pod.netns, file, "www.example.com.")


def test_both_families_answer_by_udp_and_tcp(named: NamesLab) -> None:
    pod = named.pods[2]
    for server in servers_of(pod):
        for tcp in (False, True):
            found = resolve(pod.netns, server, f"web.{ZONE}", "AAAA", tcp=tcp)
            assert values(found) == [virtual(named.lab, 6)]
    address = virtual(named.lab, 4)
    reverse = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    assert named.ask(reverse, "PTR") == [f"web.{ZONE}."]
    assert named.ask(f"_http._tcp.web.{ZONE}", "SRV") == [f"0 1 80 web.{ZONE}."]
    assert named.message(f"nobody.{ZONE}").rcode() == dns.rcode.NXDOMAIN


def test_a_draining_endpoint_has_no_name(named: NamesLab, eventually: Eventually) -> None:
    pod = named.pods[3]
    addresses = [f"--address={one}" for one in pod.addresses]
    named.lab.flatmesh("endpoint", "set", "web", "e3", *addresses, "--state", "draining")
    eventually(lambda: len(named.ask(f"tasks.web.{ZONE}")) == 2, "two endpoints are left")
    named.lab.flatmesh("endpoint", "set", "web", "e3", *addresses)
    eventually(lambda: len(named.ask(f"tasks.web.{ZONE}")) == 3, "it has one again")


def test_other_names_are_forwarded_and_a_lying_resolver_is_not_believed(
    named: NamesLab, eventually: Eventually, resolv_conf: Path
) -> None:
    named.resolver.lies = True
    try:
        assert named.ask("www.example.com") == ["192.0.2.1"]
    finally:
        named.resolver.lies = False
    assert named.ask("large.example.com", tcp=True) == ["192.0.2.1"]
    assert named.message("nowhere.example.com").rcode() == dns.rcode.NXDOMAIN
    own = servers_of(named.pods[1])
    resolv_conf.write_text("".join(f"nameserver {one}\n" for one in [*own, "192.0.2.53"]))
    eventually(
        lambda: named.message("fresh.example.com").rcode() == dns.rcode.SERVFAIL,
        "a resolver that is not there, and the responder itself, are no resolvers",
    )
    assert named.ask(f"web.{ZONE}")
    resolv_conf.write_text(f"nameserver 192.0.2.53\nnameserver {OUTSIDE}\n")
    eventually(lambda: named.ask("again.example.com") == ["192.0.2.1"], "the second one answers")
    resolv_conf.write_text(f"nameserver {OUTSIDE}\n")


def test_names_go_on_without_etcd_and_without_the_daemon(
    named: NamesLab, eventually: Eventually
) -> None:
    lab, name = named.lab, f"tasks.web.{ZONE}"
    lab.etcd.pause()
    try:
        assert len(named.ask(name)) == 3
    finally:
        lab.etcd.resume()
    before = named.responder(1)
    pid = lab.daemon_pid(1)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert len(named.ask(name)) == 3
    lab.start_daemon(1)
    lab.wait_ready(1)
    lab.flatmesh("endpoint", "remove", "web", "e3")
    eventually(lambda: len(named.ask(name)) == 2, "the new daemon tells the old responder")
    assert named.responder(1) == before
    addresses = [f"--address={one}" for one in named.pods[3].addresses]
    lab.flatmesh("endpoint", "set", "web", "e3", *addresses)
    eventually(lambda: len(named.ask(name)) == 3, "all are back")


def test_a_responder_that_dies_is_started_again(named: NamesLab, eventually: Eventually) -> None:
    pid = named.responder(2)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(named.ask(f"tasks.web.{ZONE}", host=2)) == 3, "another one answers")
    assert named.responder(2) not in (None, pid)


def test_a_pod_that_sends_without_end_keeps_neither_pods_nor_the_daemon_waiting(
    named: NamesLab, eventually: Eventually
) -> None:
    lab, pod = named.lab, named.pods[1]
    stop = threading.Event()
    other = lab.add_pod(1, "p2")
    wire = dns.message.make_query(f"tasks.web.{ZONE}", "A").to_wire()

    def hammer() -> None:
        with run_in(
            NETNS_DIR / pod.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ) as sock:
            sock.setblocking(False)
            while not stop.is_set():
                for junk in (wire, wire[:17], os.urandom(60)):
                    with contextlib.suppress(OSError):
                        sock.sendto(junk, (servers_of(pod)[0], 53))
                time.sleep(0)

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        asked = time.monotonic()
        for _ in range(10):
            found = resolve(other.netns, servers_of(other)[0], f"tasks.web.{ZONE}")
            assert len(values(found)) == 3
        print(f"10 answers meanwhile took {time.monotonic() - asked:.3f} s")
        begun = time.monotonic()
        lab.add_pod(1, "p3")
        print(f"an ADD meanwhile took {time.monotonic() - begun:.3f} s")
        lab.flatmesh("endpoint", "remove", "web", "e3")
        name = f"tasks.web.{ZONE}"
        eventually(
            lambda: len(values(resolve(other.netns, servers_of(other)[0], name))) == 2,
            "the daemon goes on",
        )
    finally:
        stop.set()
        thread.join()
        for name in ("p2", "p3"):
            lab.delete_pod(1, name)
        addresses = [f"--address={one}" for one in named.pods[3].addresses]
        lab.flatmesh("endpoint", "set", "web", "e3", *addresses)


def test_without_the_zone_nothing_answers(named: NamesLab, eventually: Eventually) -> None:
    lab = named.lab
    lab.configure(lab.spec.cluster_config() | NETWORKS)
    eventually(lambda: named.responder(1) is None, "the responder ends")
    assert not (lab.host_dir(1) / "run/names.sock").exists()
    assert not lab.add_pod(1, "p4").result.get("dns")
    lab.configure(lab.spec.cluster_config() | NETWORKS | {"ServiceZone": ZONE})
    eventually(lambda: bool(named.ask(f"web.{ZONE}")), "and comes back")


@pytest.mark.usefixtures("resolv_conf")
@pytest.mark.parametrize("backend", ["host-gw", "udp", "wireguard", "ovs"])
def test_pods_resolve_names_on_every_backend(
    make_lab: Callable[..., Lab], eventually: Eventually, backend: str
) -> None:
    lab = make_lab(backend={"Type": backend}, hosts=1, pods_per_host=0, ipv6=True)
    lab.configure(lab.spec.cluster_config() | NETWORKS | {"ServiceZone": ZONE})
    env = lab.host_dir(1) / "run/subnet.env"
    eventually(lambda: ZONE in env.read_text(), "the zone is written")
    lab.flatmesh("service", "set", "web", "--port", "http=80:8080")
    pod = lab.add_pod(1, "p1")
    for server in servers_of(pod):

        def answered(server: str = server) -> bool:
            with contextlib.suppress(dns.exception.Timeout, OSError):
                return values(resolve(pod.netns, server, f"web.{ZONE}")) == [virtual(lab, 4)]
            return False

        eventually(answered, f"{server} answers")
