# SPDX-License-Identifier: Apache-2.0
"""Services: what they cost a connection, and what a change costs, beside kube-proxy's rules.

    python -m bench.services [--services 1 --services 1000] [--rounds 3] [--json FILE]

One vxlan lab of two hosts; with each number of services (of 10 endpoints each):

    connections         a second, one after the other, from a pod to a pod on the other host:
                        through a service, and direct (bench/connection_rate.py)
    one connection      the median of them, microseconds
    ingress             Gbit/s from outside to a port published on the host without the endpoint;
                        direct is pod to pod (iperf3)
    one change          until the kernel tells that the map has changed, ms: from before the write
                        to etcd, whose disk takes a part of it; and from when a watch of this
                        program's own hears of it, as the daemon's does;
                        kube-proxy's is `iptables-restore --noflush` of that service's chains alone
    cold start          a daemon's start without the table until all services are served, s;
                        Python's start and etcd's answer included; kube-proxy's is
                        `iptables-restore` alone
    memory              of the daemon, MiB

The service that is measured is beside the others. `--services 10000` takes some minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from itertools import islice
from pathlib import Path
from typing import Any

import click

from bench import kube_proxy_rules
from bench.prerequisites import progress, require, run
from bench.report import Report
from bench.traffic import IPERF_PORT, TrafficEnd, TrafficPath, gigabits, in_netns, iperf_server
from etcd.client import Etcd, Transaction
from etcd.connect import EtcdSettings, connect
from hostnet import netns
from hostnet.netns import run_in
from hostnet.nft.messages import NFT_MSG_NEWSETELEM
from hostnet.nft.watch import NftWatch
from hostnet.ownership import SERVICES_TABLE
from lab import hosts, processes
from lab.cluster import Lab
from lab.spec import LabSpec
from services import codec
from services.keys import Keys
from services.model import Endpoint, Service, ServicePort

DIRECT, SERVICE, KUBE_PROXY = "direct", "through a service", "iptables rules"
PREFIX = "/coreos.com/network"
ENDPOINTS, SERVER_PORTS = 10, (8081, 8082)
PROBE_ADDRESS = "10.96.0.1"
BATCH = 100  # keys of one transaction; etcd takes 128
WAIT = 300.0  # seconds
CHANGE_PAUSE = 0.1  # seconds: what follows a change is done meanwhile
PROBE_TIMEOUT = 0.05  # seconds: less than the kernel waits to send a lost SYN again
SLOW = 2000  # services: with more, kube-proxy's rules are written once


def services(count: int) -> list[tuple[Service, list[Endpoint]]]:
    """Services with endpoints that no pod has."""
    first, target = IPv4Address("10.97.0.0"), IPv4Address("10.5.128.0")
    port = ServicePort("http", "tcp", 80, 8080)
    return [
        (
            Service(f"s{number}", (first + number,), (port,)),
            [
                Endpoint(f"s{number}", str(one), (target + (number * ENDPOINTS + one) % 30000,))
                for one in range(ENDPOINTS)
            ],
        )
        for number in range(count)
    ]


@dataclass(frozen=True, slots=True)
class ServiceBench:
    """The lab, and the service that is measured."""

    lab: Lab

    @property
    def host(self) -> Path:
        """The host whose balancer is measured; the endpoint is on the other one."""
        return processes.NETNS_DIR / self.lab.names.host(1)

    def write(self, keys: dict[str, bytes]) -> None:
        """Write keys to etcd."""

        async def put() -> None:
            async with connect(EtcdSettings((self.lab.endpoint,), PREFIX)) as etcd:
                left = iter(keys.items())
                while some := dict(islice(left, BATCH)):
                    await etcd.commit(Transaction(put=some))

        run_in(self.host, lambda: asyncio.run(put()))

    def probe(self) -> dict[str, bytes]:
        """The service that is measured, with one real endpoint."""
        keys = Keys(PREFIX)
        ports = (
            ServicePort("http", "tcp", 80, SERVER_PORTS[0]),
            ServicePort("iperf", "tcp", IPERF_PORT, IPERF_PORT, IPERF_PORT),
        )
        probe = Service("probe", (ip_address(PROBE_ADDRESS),), ports)
        return {
            keys.service("probe"): codec.format_service(probe),
            keys.endpoint("probe", "0"): self.endpoint({}),
        }

    def endpoint(self, ports: dict[str, int]) -> bytes:
        """The value of its endpoint."""
        pod = next(one for one in self.lab.pods if one.host == 2)
        return codec.format_endpoint(Endpoint("probe", "0", (ip_address(pod.addresses[0]),), ports))

    def changes(self, count: int) -> tuple[list[float], list[float]]:
        """Milliseconds of each change, from its write and from its being in etcd.

        The endpoint moves to its other port.
        """
        return run_in(self.host, lambda: asyncio.run(self._changes(count)))

    async def _changes(self, count: int) -> tuple[list[float], list[float]]:
        whole, from_etcd = [], []
        key = Keys(PREFIX).endpoint("probe", "0")
        changed = asyncio.Event()
        watch = NftWatch(_new_elements)
        loop = asyncio.get_running_loop()

        def drain() -> None:
            if watch.drain():
                changed.set()

        loop.add_reader(watch.fileno(), drain)
        heard = asyncio.Queue[float]()

        async def listen(etcd: Etcd) -> None:
            _, revision = await etcd.get(key)
            async for batch in etcd.watch(key, revision + 1):
                for _ in batch.events:
                    heard.put_nowait(time.perf_counter())

        try:
            async with (
                connect(EtcdSettings((self.lab.endpoint,), PREFIX)) as etcd,
                asyncio.TaskGroup() as tasks,
            ):
                listening = tasks.create_task(listen(etcd))
                for number in range(1, count + 1):
                    await asyncio.sleep(CHANGE_PAUSE)
                    changed.clear()
                    value = self.endpoint({"http": SERVER_PORTS[number % 2]})
                    begin = time.perf_counter()
                    await etcd.commit(Transaction(put={key: value}))
                    async with asyncio.timeout(WAIT):
                        await changed.wait()
                        end = time.perf_counter()
                        whole.append((end - begin) * 1e3)
                        from_etcd.append(max(0.0, end - await heard.get()) * 1e3)
                listening.cancel()
        finally:
            loop.remove_reader(watch.fileno())
            watch.close()
        return whole, from_etcd

    def answered(self) -> str:
        """The port of the server that the host reaches through the service; empty: none."""
        with socket.socket() as one:
            one.settimeout(PROBE_TIMEOUT)
            try:
                one.connect((PROBE_ADDRESS, 80))
                return one.recv(5).decode()
            except OSError:
                return ""

    def cold_start(self) -> float:
        """Seconds until a new daemon has written all services into an empty kernel."""
        self.lab.stop_daemon(1)
        table = ("nft", "delete", "table", "inet", "flatmesh_services")
        subprocess.run([*processes.enter(self.lab.names.host(1)), *table], check=True)
        earlier = len(self.lab.log(1))
        begin = time.monotonic()
        self.lab.start_daemon(1)
        while "services: " not in self.lab.log(1)[earlier:]:
            if time.monotonic() > begin + WAIT:
                raise click.ClickException("the services are not served after a start")
            time.sleep(0.02)
        return time.monotonic() - begin

    def memory(self) -> float:
        """MiB that host 1's daemon has."""
        status = Path(f"/proc/{self.lab.daemon_pid(1)}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _new_elements(kind: int, _family: int, table: str) -> bool:
    """Whether a message of the kernel tells of elements of the services' maps."""
    return kind == NFT_MSG_NEWSETELEM and table == SERVICES_TABLE


@contextlib.contextmanager
def connection_server(end: TrafficEnd) -> Iterator[None]:
    """The server of `bench.connection_rate`."""
    program = (end.python, "-I", "-m", "bench.connection_rate", "serve")
    argv = [*end.enter, *program, *map(str, SERVER_PORTS)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            if process.stdout is not None:
                process.stdout.readline()  # it listens
            yield
        finally:
            process.terminate()


def connections(end: TrafficEnd, address: str, port: int, seconds: float) -> dict[str, Any]:
    """Connections a second, and the median of one."""
    program = (sys.executable, "-I", "-m", "bench.connection_rate", "connect")
    argv = [*end.enter, *program, address, str(port), str(seconds)]
    answer: dict[str, Any] = json.loads(subprocess.check_output(argv, timeout=seconds + 60))
    return answer


def measure_kube_proxy(report: Report, what: str, count: int, rounds: int) -> None:
    """The same number of services as kube-proxy writes them, in a namespace of their own."""
    found = services(count)
    cold, one = [], []
    for _ in range(rounds if count < SLOW else 1):
        name = f"bench-{secrets.token_hex(4)}"
        netns.create(name)
        restore = [*processes.enter(name), "iptables-restore", "--noflush"]

        def timed(text: str, argv: list[str] = restore) -> float:
            begin = time.perf_counter()
            subprocess.run(argv, input=text, text=True, check=True)
            return time.perf_counter() - begin

        try:
            cold.append(timed(kube_proxy_rules.rules(found)))
            service, endpoints = found[0]
            one += [
                timed(kube_proxy_rules.change(service, endpoints[: len(endpoints) - n % 2])) * 1e3
                for n in range(4)
            ]
        finally:
            netns.remove(name)
    report.add(KUBE_PROXY, f"one change, median{what}", statistics.median(one), "ms")
    report.add(KUBE_PROXY, f"cold start{what}", statistics.median(cold), "s")


@click.command()
@click.option("--services", "counts", type=int, multiple=True, default=(1, 1000), show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Runs per figure; the median counts.")
@click.option("--seconds", default=2, show_default=True, help="Per run.")
@click.option("--changes", default=40, show_default=True, help="Of one endpoint.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write it there too.")
def main(
    counts: tuple[int, ...], rounds: int, seconds: int, changes: int, json_file: Path | None
) -> None:
    """Measure and print."""
    require("ip", "iperf3", "iptables-restore", "nft", "nsenter")
    traffic, control = Report("services, traffic", DIRECT), Report("services, changes", KUBE_PROXY)
    name = f"b{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        lab = Lab(LabSpec(name, 2, 1), Path(directory))
        stack.callback(lab.down)
        lab.up()
        lab.configure(lab.spec.cluster_config() | {"ServiceNetwork": "10.96.0.0/15"})
        bench = ServiceBench(lab)
        client, server = (in_netns(one.netns) for one in sorted(lab.pods, key=lambda p: p.host))
        target = next(one.addresses[0] for one in lab.pods if one.host == 2)
        stack.enter_context(connection_server(server))
        stack.enter_context(iperf_server(server))
        paths = {
            SERVICE: TrafficPath(SERVICE, in_netns(lab.names.underlay), server, hosts.host_ipv4(1)),
            DIRECT: TrafficPath(DIRECT, client, server, target),
        }
        for count in sorted(counts):
            what = f", {count} service{'s' * (count > 1)}"
            progress(f"writing{what.removeprefix(',')}")
            bench.write(keys_of(count))
            bench.write(bench.probe())
            deadline = time.monotonic() + WAIT
            while not run_in(bench.host, bench.answered):
                if time.monotonic() > deadline:
                    raise click.ClickException("the services are not served")
                time.sleep(0.1)
            progress(f"cold start{what}")
            cold = statistics.median([bench.cold_start() for _ in range(rounds)])
            lab.wait_ready(1)
            control.add(SERVICE, f"cold start{what}", cold, "s")
            rates: dict[tuple[str, str], list[float]] = {}
            for number in range(rounds):
                progress(f"traffic{what}, round {number + 1} of {rounds}")
                for subject, address, port in (
                    (SERVICE, PROBE_ADDRESS, 80),
                    (DIRECT, target, SERVER_PORTS[0]),
                ):
                    found = connections(client, address, port, seconds)
                    rates.setdefault((subject, "rate"), []).append(found["rate"])
                    rates.setdefault((subject, "median"), []).append(found["median"])
                    rate = gigabits(paths[subject], seconds, ("-P", "1"))
                    rates.setdefault((subject, "ingress"), []).append(rate)
            for key, figure, unit in (
                ("rate", "connections", "1/s"),
                ("median", "one connection", "µs"),
                ("ingress", "ingress", "Gbit/s"),
            ):
                for subject in (DIRECT, SERVICE):
                    value = statistics.median(rates[subject, key])
                    traffic.add(subject, f"{figure}{what}", value, unit)
            whole, from_etcd = map(sorted, bench.changes(changes))
            control.add(SERVICE, f"one change, median{what}", statistics.median(whole), "ms")
            for figure, times in (("one change", whole), ("one change, from etcd on", from_etcd)):
                last = times[int(len(times) * 0.99)]
                control.add(SERVICE, f"{figure}, 99 %{what}", last, "ms")
            control.add(SERVICE, f"memory{what}", bench.memory(), "MiB")
            progress(f"iptables rules{what}")
            measure_kube_proxy(control, what, count, rounds)
    traffic.show(json_file)
    control.show(json_file and json_file.with_suffix(".changes.json"))


def keys_of(count: int) -> dict[str, bytes]:
    """All keys of `services(count)`."""
    keys = Keys(PREFIX)
    found = {}
    for service, endpoints in services(count):
        found[keys.service(service.name)] = codec.format_service(service)
        for one in endpoints:
            found[keys.endpoint(service.name, one.id)] = codec.format_endpoint(one)
    return found


if __name__ == "__main__":
    run(main)
