# SPDX-License-Identifier: Apache-2.0
"""A whole cluster on one machine: underlay, etcd, a daemon per host, pods.

Nothing about a running lab is kept in memory: its namespaces are found by their names, its
processes by the namespaces they live in, its files below one directory (`lab.files`). So
`down` removes a lab that was killed at any point, and `up` starts with such a removal.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ipam.subnet_env import SubnetEnv
from lab import hosts, processes
from lab.daemon import READY_TIMEOUT, LabDaemon
from lab.docker.host import DockerOfHost, remove_cgroups
from lab.etcd_server import EtcdServer, etcd_release
from lab.files import DIRECTORY, LabFiles, lab_files
from lab.hosts import LabError, Names
from lab.matrix import MatrixEndpoint, PairResult, measure
from lab.ovs_server import OvsServer
from lab.runtime import PodInterface, Runtime
from lab.scheduler.host import in_schedulers, remove_task_cgroups
from lab.spec import LabPod, LabSpec

PROGRESS_INTERVAL = 1.5  # seconds between two lines about a step that lasts
Report = Callable[[str], None]
"""Told each step while a lab is made."""


class Lab:
    """One lab, by its name. Not for use by several threads at once."""

    def __init__(
        self,
        spec: LabSpec,
        directory: Path = DIRECTORY,
        report: Report = lambda _: None,
    ) -> None:
        self.spec = spec
        self.names = Names(spec.name)
        self.directory = directory / spec.name
        self.files = LabFiles(self.directory)
        self.report = report
        self.conflist: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [{"type": "flatmesh", "hairpinMode": True}],
        }

    # -- the whole -------------------------------------------------------------------

    @classmethod
    def load(cls, name: str, directory: Path = DIRECTORY, report: Report = lambda _: None) -> Lab:
        """Return a lab that was made before. Raises LabError when there is none of that name."""
        return cls(lab_files(name, directory).spec(), directory, report)

    def require_alive(self) -> None:
        """Raise LabError unless the lab's hosts are there."""
        option = "" if self.spec.name == "lab" else f" --name {self.spec.name}"
        mend = f"remove what is left with: flatmesh lab down{option}"
        there = self.names.present()
        hosts_there = all(self.names.host(number) in there for number in self.host_numbers)
        if self.names.underlay not in there or not hosts_there:
            raise LabError(
                f"lab {self.spec.name!r} is dead: network namespaces of it are gone, "
                f"by a restart of this machine for example; {mend}"
            )
        if not self.files.complete():
            raise LabError(
                f"lab {self.spec.name!r} is not made to the end, or is being made now; {mend}"
            )

    def up(self) -> None:
        """Make hosts, etcd, daemons and pods, after removing what a dead lab of this name left.

        Raises LabError when the lab is up already or a part of it doesn't come up.
        """
        with self.files.lock():
            if self.files.complete():
                raise LabError(
                    f"lab {self.spec.name!r} is up already; take it down first: "
                    f"flatmesh lab down --name {self.spec.name}"
                )
            if self.directory.exists() or self.names.present():
                self.report("cleaning up what an earlier lab of this name left behind")
                self._remove_everything()
            self.directory.mkdir(parents=True, mode=0o755)
            self.files.write(self.spec, complete=False)
            self.report(f"underlay and {self.spec.hosts} hosts as network namespaces")
            self._make_hosts()
            self.report(f"{etcd_release()}, and the cluster config in it")
            self.start_etcd()
            self.configure(self.spec.cluster_config())
            if self.spec.backend["Type"] == "ovs":
                self.report("ovsdb-server and ovs-vswitchd on each host")
                for number in self._told_of_each("hosts have theirs", self.host_numbers):
                    self.ovs(number).start()
            self.report("CNI plugins")
            self.install_plugins()
            self.report(f"flatmeshd on each host, backend {self.spec.backend['Type']}")
            for number in self._told_of_each("daemons are started", self.host_numbers):
                self.start_daemon(number)
            self._wait_all_ready()
            self.report(f"{self.spec.pods_per_host} pods on each host, by the CNI plugin")
            for number in self._told_of_each("hosts have their pods", self.host_numbers):
                for pod in range(1, self.spec.pods_per_host + 1):
                    self.add_pod(number, f"p{pod}")
            self.files.write(self.spec, complete=True)

    def _wait_all_ready(self) -> None:
        told = time.monotonic()

        def meanwhile() -> None:
            nonlocal told
            if time.monotonic() > told + PROGRESS_INTERVAL:
                told = time.monotonic()
                done = sum(map(self.ready, self.host_numbers))
                self.report(f"{done} of {self.spec.hosts} hosts are ready")

        for number in self.host_numbers:
            self.daemon(number).wait_ready(report=self.report, meanwhile=meanwhile)

    def _told_of_each(self, what: str, numbers: range) -> Iterator[int]:
        """The numbers; while that lasts, how many are done is reported."""
        told = time.monotonic()
        for done, number in enumerate(numbers):
            if time.monotonic() > told + PROGRESS_INTERVAL:
                told = time.monotonic()
                self.report(f"{done} of {len(numbers)} {what}")
            yield number

    def down(self) -> None:
        """Remove every trace of it, whatever state it is in. Nothing there is no error."""
        with self.files.lock():
            self._remove_everything()
        self.files.remove_lock()

    @property
    def host_numbers(self) -> range:
        """Hosts are counted from 1."""
        return range(1, self.spec.hosts + 1)

    @property
    def bin_dir(self) -> Path:
        """Where this lab's CNI executables are."""
        return self.directory / "cni-bin"

    def install_plugins(self) -> None:
        """Put the CNI executables into `bin_dir`, as deploy/install does. Raises LabError.

        That runs in the underlay's namespace, where `down` finds it when this process dies.
        """
        argv = [
            *processes.enter(self.names.underlay),
            *(self.spec.python, "-I", "-m", "cni.install", "--bin-dir", str(self.bin_dir)),
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(done.stderr.strip())

    # -- etcd ------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        """The etcd URL that hosts use."""
        if self.spec.ipv4:
            return f"http://{hosts.UNDERLAY_IPV4}.1:2379"
        return f"http://[{hosts.UNDERLAY_IPV6}:1]:2379"

    @property
    def etcd(self) -> EtcdServer:
        """The lab's etcd."""
        return EtcdServer(
            self.directory / "etcd",
            client_url=self.endpoint,
            peer_url=self.endpoint.replace("2379", "2380"),
            netns=self.names.underlay,
        )

    def start_etcd(self) -> None:
        """Start etcd in the underlay's namespace and wait until it serves."""
        self.etcd.start()

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the cluster config, as an operator would."""
        self.flatmesh("config", "set", json.dumps(config))

    def flatmesh(self, *arguments: str) -> str:
        """Run the operator's command in the underlay's namespace."""
        done = subprocess.run(
            [
                *processes.enter(self.names.underlay),
                *(self.spec.python, "-I", "-m", "cli.main"),
                *arguments,
                f"--etcd-endpoints={self.endpoint}",
            ],
            capture_output=True,
            text=True,
            check=False,
            env=processes.surroundings(),
        )
        if done.returncode:
            words = done.stderr.strip().removeprefix("flatmesh: ")
            raise LabError(words or f"flatmesh {arguments[0]} failed")
        return done.stdout

    # -- hosts and daemons -----------------------------------------------------------

    def host_dir(self, number: int) -> Path:
        """All files of one host."""
        return self.directory / f"h{number}"

    def environment(self, number: int) -> dict[str, str]:
        """Variables for the programs of a host: the paths of its own files."""
        directory = self.host_dir(number)
        return {
            "FLATMESH_HOST_NAME": f"h{number}",
            "FLATMESH_RUN_DIR": str(directory / "run"),
            "FLATMESH_STATE_DIR": str(directory / "var"),
            "FLATMESH_SUBNET_FILE": str(directory / "run/subnet.env"),
            "OVS_RUNDIR": str(self.ovs(number).directory),
        }

    def ovs(self, number: int) -> OvsServer:
        """A host's Open vSwitch; only labs with the ovs backend start it."""
        return OvsServer(self.host_dir(number) / "ovs", self.names.host(number))

    def _make_hosts(self) -> None:
        families = {"ipv4": self.spec.ipv4, "ipv6": self.spec.ipv6 or self.spec.underlay_ipv6}
        hosts.make_underlay(self.names, self.spec.underlay_mtu, **families)
        for number in self.host_numbers:
            hosts.make_host(self.names, number, self.spec.underlay_mtu, **families)
            for part in ("run", "var", *(["plugins"] if self.spec.docker else [])):
                (self.host_dir(number) / part).mkdir(parents=True)

    def docker(self, number: int) -> DockerOfHost:
        """A host's dockerd; only labs with Docker start it."""
        netns, directory = self.names.host(number), self.host_dir(number)
        return DockerOfHost(self.spec.name, number, netns, directory)

    def daemon(self, number: int) -> LabDaemon:
        """A host's daemon, running or not."""
        return LabDaemon(
            f"h{number}",
            self.names.host(number),
            self.host_dir(number),
            (
                *(self.spec.python, "-I", "-m", "agent.main"),
                f"--etcd-endpoints={self.endpoint}",
                "--iface=eth0",
                *(["--ip-masq"] if self.spec.ip_masq else []),
                *(
                    [f"--docker-plugin={self.docker(number).plugin_socket}"]
                    if self.spec.docker
                    else []
                ),
            ),
            self.environment(number),
        )

    def start_daemon(self, number: int, *flags: str) -> subprocess.Popen[bytes]:
        """Start flatmeshd on a host; `wait_ready` tells when it serves."""
        return self.daemon(number).start(*flags)

    def daemon_pid(self, number: int) -> int | None:
        """The pid of a host's daemon if it runs."""
        return self.daemon(number).pid()

    def stop_daemon(self, number: int) -> None:
        """Stop a host's daemon gracefully."""
        self.daemon(number).stop()

    def log(self, number: int) -> str:
        """The log of a host's daemon so far."""
        return self.daemon(number).log()

    def ready(self, number: int) -> bool:
        """Whether the daemon that runs now has its lease and programmed what it knows."""
        return self.daemon(number).ready()

    def wait_ready(self, number: int, timeout: float = READY_TIMEOUT) -> None:
        """Wait for `ready`. Raises LabError with the last lines of the log."""
        self.daemon(number).wait_ready(timeout)

    def subnet(self, number: int) -> str:
        """The IPv4 subnet that a host leases, as it told its plugins: `10.5.76.0/24`.

        Raises OSError while it has none.
        """
        env = SubnetEnv.read(self.host_dir(number) / "run/subnet.env")
        if env.subnet is None:
            raise LabError(f"h{number} leases no IPv4 subnet")
        return str(env.subnet.network)

    # -- pods ------------------------------------------------------------------------

    def runtime(self, number: int) -> Runtime:
        """The container runtime of a host."""
        return Runtime(
            (self.bin_dir,), self.environment(number), processes.enter(self.names.host(number))
        )

    def pod_interface(self, number: int, name: str) -> PodInterface:
        """The interface that the runtime asks for: the pod's container id and namespace."""
        netns = self.names.pod(number, name)
        return PodInterface(f"{self.spec.name}-h{number}-{name}", str(processes.NETNS_DIR / netns))

    def add_pod(self, number: int, name: str) -> LabPod:
        """Make a pod's namespace and call ADD for it. Raises PluginError; then nothing is left."""
        path = hosts.make_pod(self.names, number, name)
        try:
            result = self.runtime(number).add(self.conflist, self.pod_interface(number, name))
        except BaseException:
            hosts.remove(path.name)
            raise
        pod = LabPod(number, name, path.name, result)
        record = self._pod_record(number, name)
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(asdict(pod)))
        return pod

    def delete_pod(self, number: int, name: str) -> None:
        """Call DEL for a pod and remove its namespace."""
        record = self._pod_record(number, name)
        result = json.loads(record.read_text())["result"] if record.exists() else None
        self.runtime(number).delete(self.conflist, self.pod_interface(number, name), result)
        hosts.remove(self.names.pod(number, name))
        record.unlink(missing_ok=True)

    def _pod_record(self, number: int, name: str) -> Path:
        return self.host_dir(number) / "pods" / f"{name}.json"

    @property
    def pods(self) -> list[LabPod]:
        """All pods that were added and not deleted."""
        records = sorted(self.directory.glob("h*/pods/*.json"))
        return [LabPod(**json.loads(record.read_text())) for record in records]

    def pod_endpoints(self, family: int) -> list[MatrixEndpoint]:
        """Pods as the reachability matrix wants them, for one family (4 or 6)."""
        endpoints = []
        for pod in self.pods:
            addresses = tuple(a for a in pod.addresses if (":" in a) == (family == 6))
            if addresses:
                endpoints.append(MatrixEndpoint(f"h{pod.host}-{pod.name}", pod.netns, addresses))
        return endpoints

    def matrix(self, family: int, timeout: float) -> list[PairResult]:
        """Probe from every pod and host to every pod; see lab.matrix.measure."""
        pods = self.pod_endpoints(family)
        return measure([*pods, *self.host_endpoints(family)], pods, timeout)

    def host_endpoints(self, family: int) -> list[MatrixEndpoint]:
        """Hosts likewise, each with all its addresses of global scope."""
        endpoints = []
        for number in self.host_numbers:
            netns = self.names.host(number)
            links = json.loads(hosts.ip("-n", netns, "-json", f"-{family}", "addr", "show"))
            addresses = tuple(
                address["local"]
                for link in links
                for address in link["addr_info"]
                if address.get("scope") == "global"
            )
            endpoints.append(MatrixEndpoint(f"h{number}", netns, addresses))
        return endpoints

    def _remove_everything(self) -> None:
        names = self.names.present()
        # twice: a daemon may have started a process while it was being ended
        for _ in range(2):
            found = processes.in_namespaces(names) | in_schedulers(self.directory)
            if found:
                self.report(f"ending {len(found)} processes")
            processes.stop(found)
        for done in self._told_of_each("network namespaces are removed", range(len(names))):
            hosts.remove(names[done])
        remove_cgroups(self.spec.name)
        remove_task_cgroups(self.spec.name)
        self.files.remove()


def require_root() -> None:
    """Raise LabError unless we may make namespaces."""
    if os.geteuid() != 0:
        raise LabError("a lab makes network namespaces, which needs root: run it with sudo")
