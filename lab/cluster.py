"""A whole cluster on one machine: underlay, etcd, a daemon per host, pods.

Everything a lab makes is found again without its memory: namespaces by their names, its
processes by the namespaces they live in, its files below one directory. So `down` cleans up
after a lab that was killed at any point, and `up` begins with it. A lock held by the
process that works on a lab tells a lab that is being made from one whose maker died.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import cni.install
from ipam.subnet_env import SubnetEnv
from lab import hosts, processes
from lab.etcd_server import EtcdServer
from lab.hosts import LabError, Names
from lab.matrix import Cell, Endpoint, measure
from lab.ovs_server import OvsServer
from lab.runtime import Attachment, Runtime

DIRECTORY = Path("/var/lib/flatmesh-lab")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
READY_TIMEOUT = 30.0  # seconds for a daemon to have its lease
POLL = 0.02  # seconds


@dataclass(frozen=True, slots=True)
class LabSpec:
    """What to build."""

    name: str = "lab"
    hosts: int = 3
    pods_per_host: int = 2
    backend: Mapping[str, Any] = field(default_factory=lambda: {"Type": "vxlan"})
    ipv4: bool = True
    ipv6: bool = False
    network: str = "10.5.0.0/16"
    subnet_len: int = 0
    """0 leaves it to the default."""
    ipv6_network: str = "fd05::/48"
    underlay_ipv6: bool = False
    """Give the underlay IPv6 even where pods have none (yet)."""
    underlay_mtu: int = 1500
    ip_masq: bool = True

    def cluster_config(self) -> dict[str, Any]:
        """The cluster config as an operator would write it."""
        config: dict[str, Any] = {}
        if self.ipv4:
            config["Network"] = self.network
            if self.subnet_len:
                config["SubnetLen"] = self.subnet_len
        else:
            config["EnableIPv4"] = False
        if self.ipv6:
            config |= {"EnableIPv6": True, "IPv6Network": self.ipv6_network}
        return config | {"Backend": dict(self.backend)}


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that is there: where, and what its ADD answered."""

    host: int
    name: str
    netns: str
    result: Mapping[str, Any]

    @property
    def addresses(self) -> list[str]:
        """Its addresses, without prefix lengths."""
        return [str(ip_interface(ip["address"]).ip) for ip in self.result["ips"]]


class Lab:
    """One lab by name: make it, look at it, take it down."""

    def __init__(
        self,
        spec: LabSpec,
        directory: Path = DIRECTORY,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.spec = spec
        self.names = Names(spec.name)
        self.directory = directory / spec.name
        self.say = say
        self.conflist: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [{"type": "flatmesh"}],
        }

    # -- the whole -------------------------------------------------------------------

    @classmethod
    def load(
        cls, name: str, directory: Path = DIRECTORY, say: Callable[[str], None] = lambda _: None
    ) -> Lab:
        """A lab that is there. Raises LabError when there is none of that name."""
        Names(name)  # refuse a bad name before it becomes a path
        try:
            state = json.loads((directory / name / "lab.json").read_text())
        except (OSError, ValueError):
            raise LabError(
                f"there is no lab {name!r}; make one with: flatmesh lab up --name {name}"
            ) from None
        return cls(LabSpec(**state["spec"]), directory, say)

    def up(self) -> None:
        """Make it all. Cleans up first what a dead lab of this name left behind.

        Raises LabError when the lab is up already or a part of it doesn't come up.
        """
        with self._lock():
            if self._complete():
                raise LabError(
                    f"lab {self.spec.name!r} is up already; take it down first: "
                    f"flatmesh lab down --name {self.spec.name}"
                )
            if self.directory.exists() or self.names.present():
                self.say("cleaning up what an earlier lab of this name left behind")
                self._remove_everything()
            self.directory.mkdir(parents=True, mode=0o755)
            self._write_state(complete=False)
            self.say(f"underlay and {self.spec.hosts} hosts as network namespaces")
            self._make_hosts()
            self.say("etcd, and the cluster config in it")
            self.start_etcd()
            self.configure(self.spec.cluster_config())
            if self.spec.backend["Type"] == "ovs":
                self.say("ovsdb-server and ovs-vswitchd on each host")
                for number in self.host_numbers:
                    self.ovs(number).start()
            self.say("CNI plugins")
            cni.install.install(self.bin_dir, python=sys.executable)
            self.say(f"flatmeshd on each host, backend {self.spec.backend['Type']}")
            for number in self.host_numbers:
                self.start_daemon(number)
            for number in self.host_numbers:
                self.wait_ready(number)
            self.say(f"{self.spec.pods_per_host} pods on each host, by the CNI plugin")
            for number in self.host_numbers:
                for pod in range(1, self.spec.pods_per_host + 1):
                    self.add_pod(number, f"p{pod}")
            self._write_state(complete=True)

    def down(self) -> None:
        """Remove every trace of it, whatever state it is in. Nothing there is no error."""
        with self._lock():
            self._remove_everything()
        with contextlib.suppress(OSError):
            self._lock_path.unlink()
        with contextlib.suppress(OSError):
            self.directory.parent.rmdir()  # the last lab takes the folder with it

    @property
    def host_numbers(self) -> range:
        """Hosts are counted from 1."""
        return range(1, self.spec.hosts + 1)

    @property
    def bin_dir(self) -> Path:
        """Where this lab's CNI executables are."""
        return self.directory / "cni-bin"

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
                *(sys.executable, "-I", "-m", "cli.main"),
                *arguments,
                f"--etcd-endpoints={self.endpoint}",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(done.stderr.strip() or f"flatmesh {arguments[0]} failed")
        return done.stdout

    # -- hosts and daemons -----------------------------------------------------------

    def host_dir(self, number: int) -> Path:
        """All files of one host."""
        return self.directory / f"h{number}"

    def environment(self, number: int) -> dict[str, str]:
        """What a host's programs find in their environment: its own paths."""
        directory = self.host_dir(number)
        return {
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
            for part in ("run", "var"):
                (self.host_dir(number) / part).mkdir(parents=True)

    def start_daemon(self, number: int, *flags: str) -> subprocess.Popen[bytes]:
        """Start flatmeshd on a host; `wait_ready` tells when it serves."""
        daemon = processes.spawn(
            [
                *(sys.executable, "-I", "-m", "agent.main"),
                f"--etcd-endpoints={self.endpoint}",
                "--iface=eth0",
                *(["--ip-masq"] if self.spec.ip_masq else []),
                *flags,
            ],
            self.names.host(number),
            self.host_dir(number) / "flatmeshd.log",
            self.environment(number),
        )
        (self.host_dir(number) / "flatmeshd.pid").write_text(f"{daemon.pid}\n")
        return daemon

    def daemon_pid(self, number: int) -> int | None:
        """The pid of a host's daemon if it runs."""
        try:
            pid = int((self.host_dir(number) / "flatmeshd.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if processes.running(pid) else None

    def stop_daemon(self, number: int) -> None:
        """Stop a host's daemon gracefully."""
        pid = self.daemon_pid(number)
        if pid is not None:
            processes.stop([pid])

    def log(self, number: int) -> str:
        """The log of a host's daemon so far."""
        with contextlib.suppress(OSError):
            return (self.host_dir(number) / "flatmeshd.log").read_text()
        return ""

    def ready(self, number: int) -> bool:
        """Whether the daemon that runs now has its lease and programmed what it knows.

        The file holds a pid, for a killed daemon leaves it behind.
        """
        with contextlib.suppress(OSError, ValueError):
            ready = int((self.host_dir(number) / "run/ready").read_text())
            return ready == self.daemon_pid(number)
        return False

    def subnet(self, number: int) -> str:
        """The IPv4 subnet that a host leases, as it told its plugins: `10.5.76.0/24`.

        Raises OSError while it has none.
        """
        env = SubnetEnv.read(self.host_dir(number) / "run/subnet.env")
        if env.subnet is None:
            raise LabError(f"h{number} leases no IPv4 subnet")
        return str(env.subnet.network)

    def wait_ready(self, number: int, timeout: float = READY_TIMEOUT) -> None:
        """Wait for `ready`. Raises LabError with the daemon's last words."""
        deadline = time.monotonic() + timeout
        while not self.ready(number):
            if time.monotonic() > deadline or self.daemon_pid(number) is None:
                last = "\n".join(self.log(number).splitlines()[-5:])
                raise LabError(f"flatmeshd on h{number} is not ready; its last words:\n{last}")
            time.sleep(POLL)

    # -- pods ------------------------------------------------------------------------

    def runtime(self, number: int) -> Runtime:
        """The container runtime of a host."""
        return Runtime(
            (self.bin_dir,), self.environment(number), processes.enter(self.names.host(number))
        )

    def attachment(self, number: int, name: str) -> Attachment:
        """How the runtime names a pod."""
        netns = self.names.pod(number, name)
        return Attachment(f"{self.spec.name}-h{number}-{name}", str(processes.NETNS_DIR / netns))

    def add_pod(self, number: int, name: str) -> Pod:
        """Make a pod's namespace and plug it in. Raises PluginError; then nothing is left."""
        path = hosts.make_pod(self.names, number, name)
        try:
            result = self.runtime(number).add(self.conflist, self.attachment(number, name))
        except BaseException:
            hosts.remove(path.name)
            raise
        pod = Pod(number, name, path.name, result)
        record = self._pod_record(number, name)
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(asdict(pod)))
        return pod

    def delete_pod(self, number: int, name: str) -> None:
        """Unplug a pod and remove its namespace."""
        record = self._pod_record(number, name)
        result = json.loads(record.read_text())["result"] if record.exists() else None
        self.runtime(number).delete(self.conflist, self.attachment(number, name), result)
        hosts.remove(self.names.pod(number, name))
        record.unlink(missing_ok=True)

    def _pod_record(self, number: int, name: str) -> Path:
        return self.host_dir(number) / "pods" / f"{name}.json"

    @property
    def pods(self) -> list[Pod]:
        """All pods that were added and not deleted."""
        records = sorted(self.directory.glob("h*/pods/*.json"))
        return [Pod(**json.loads(record.read_text())) for record in records]

    def pod_endpoints(self, family: int) -> list[Endpoint]:
        """Pods as the reachability matrix wants them, for one family (4 or 6)."""
        endpoints = []
        for pod in self.pods:
            addresses = tuple(a for a in pod.addresses if (":" in a) == (family == 6))
            if addresses:
                endpoints.append(Endpoint(f"h{pod.host}-{pod.name}", pod.netns, addresses))
        return endpoints

    def matrix(self, family: int, patience: float) -> list[Cell]:
        """Probe from every pod and host to every pod; see lab.matrix.measure."""
        pods = self.pod_endpoints(family)
        return measure([*pods, *self.host_endpoints(family)], pods, patience)

    def host_endpoints(self, family: int) -> list[Endpoint]:
        """Hosts likewise: every global address of theirs is their own."""
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
            endpoints.append(Endpoint(f"h{number}", netns, addresses))
        return endpoints

    # -- traces ----------------------------------------------------------------------

    @property
    def _lock_path(self) -> Path:
        return self.directory.with_suffix(".lock")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the lab for ourselves; the kernel lets go when we die."""
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(
                    f"lab {self.spec.name!r} is being changed by another process; try again later"
                ) from None
            yield

    def _write_state(self, *, complete: bool) -> None:
        state = {
            "spec": asdict(self.spec),
            "complete": complete,
            "boot_id": BOOT_ID.read_text().strip(),
        }
        temporary = self.directory / "lab.json.new"
        temporary.write_text(json.dumps(state))
        temporary.replace(self.directory / "lab.json")

    def _complete(self) -> bool:
        """Whether a lab of this name is up: made to the end, and since this boot."""
        with contextlib.suppress(OSError, ValueError):
            state = json.loads((self.directory / "lab.json").read_text())
            return bool(state["complete"] and state["boot_id"] == BOOT_ID.read_text().strip())
        return False

    def _remove_everything(self) -> None:
        names = self.names.present()
        # twice: a daemon that is being ended may just have started something
        for _ in range(2):
            processes.stop(processes.in_namespaces(names))
        for name in names:
            hosts.remove(name)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)


def labs(directory: Path = DIRECTORY) -> list[str]:
    """Names of the labs that left a trace: files or namespaces."""
    found = {p.parent.name for p in directory.glob("*/lab.json")}
    for path in processes.NETNS_DIR.glob(f"{hosts.PREFIX}-*-net"):
        found.add(path.name.split("-")[1])
    return sorted(found)


def require_root() -> None:
    """Raise LabError unless we may make namespaces."""
    if os.geteuid() != 0:
        raise LabError("a lab makes network namespaces, which needs root: run it with sudo")
