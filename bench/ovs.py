"""The ovs backend beside a switch that somebody set up by hand, and among many leases.

    python -m bench.ovs [--seconds 1] [--rounds 5] [--tunnel gre]... [--only traffic|scale]

Traffic, pod to pod between two hosts, per tunnel type and mesh:

    TCP 1 stream    received Gbit/s, by iperf3
    CPU per GiB     seconds that all processors were busy, per GiB of it
    round trip      ping, median

The baseline is the classic userspace recipe, made by hand in the same run: NIC and address moved
into `br-phy`, one tunnel port in `br0` that switches as it learns (NORMAL), a Linux bridge with
the pods joined to it. Pods have the same MTU and frames the same header. All paths of a tunnel
type are up at the same time and runs take turns over them; each figure is the median of the
rounds. Raw underlay and kernel VXLAN are there to see what userspace costs.

Scale, one real daemon (mesh flow) among leases that were written to a real etcd:

    cold            from the daemon's start, no bridge there, to the flow of every peer
    one more lease  from before its write in etcd to its flow, after a second of quiet, median
    back to back    the same for leases that come one after the other
    in the daemon   of that, as its log says: from the look at the host to the last change
    settling        CPU seconds of the daemon in the 5 s after its cold start
    restart         from ovs-vswitchd's answering again, after a kill, to the flow of every peer

There the baseline is `ovs-ofctl --bundle add-flows` writing the same flows to a new bridge,
and then those of one more peer.

Source of the recipe: Open vSwitch, Documentation/howto/userspace-tunneling.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from bench.lease_writer import AT_ONCE, PREFIX, subnet
from bench.report import Report
from bench.scale import CHANGES, TICK, wait_until
from bench.throughput import UNDERLAY, Path2, gigabits, iperf_server
from bench.udp import Figures, busy_seconds, round_trips
from etcd.client import Etcd
from lab import hosts, ovs_server, processes
from lab.cluster import Lab
from lab.hosts import LabError, Names, ip
from lab.ovs_server import OvsServer
from lab.spec import LabSpec
from ovs_mesh.config import IANA_PORT, MESHES, OVERHEAD, TUNNELS

HAND, KERNEL, DAEMON = "hand-made OVS", "kernel vxlan", "flatmeshd"
UNDERLAY_MTU = 1500  # bytes
PING_ROUNDS = 3
SINGLES = 10  # leases one by one
QUIET = 1.0  # seconds
SETTLING = 5.0  # seconds
FAR = 8192  # made-up hosts are counted from here when our own subnet is among the first ones
OURS = "table=50,ip,nw_dst=10.64.0.0/10"  # what lease_writer.subnet is in, in table `remote`
GOALS = (("TCP 1 stream", "at least", 0.9), ("round trip", "at most", 1 / 0.9))


# -- the baseline --------------------------------------------------------------------------


def make_host(names: Names, number: int, tunnel: str, server: OvsServer) -> None:
    """One host of the recipe with one pod, 10.9.NUMBER.2."""
    hosts.make_host(names, number, UNDERLAY_MTU, ipv6=False)
    hosts.make_pod(names, number, "p1")
    host, pod, other = names.host(number), names.pod(number, "p1"), 3 - number
    mtu = UNDERLAY_MTU - OVERHEAD[tunnel]
    lines = [
        f"link add kbr0 mtu {mtu} type bridge",
        f"link add kbr0-br0 mtu {mtu} type veth peer name br0-kbr0 mtu {mtu}",
        f"link add pod1 mtu {mtu} type veth peer name eth0 netns {pod} mtu {mtu}",
        "link set kbr0-br0 master kbr0 up",
        "link set br0-kbr0 up",
        "link set pod1 master kbr0 up",
        "link set kbr0 up",
        f"addr add 10.9.{number}.1/24 dev kbr0",
    ]
    ip("-n", host, "-batch", "-", batch="\n".join(lines) + "\n")
    mac = json.loads(ip("-n", host, "-json", "link", "show", "eth0"))[0]["address"]
    server.start()
    userspace = ("datapath_type=netdev", "fail_mode=standalone")
    port = [f"options:dst_port={IANA_PORT[tunnel]}"] if IANA_PORT[tunnel] else []
    server.vsctl(
        *("add-br", "br-phy", "--", "set", "bridge", "br-phy", *userspace),
        *(f"other_config:hwaddr={mac}", "--", "add-port", "br-phy", "eth0"),
        *("--", "add-br", "br0", "--", "set", "bridge", "br0", *userspace),
        *("--", "add-port", "br0", "br0-kbr0"),
        *("--", "add-port", "br0", "tun0", "--", "set", "interface", "tun0", f"type={tunnel}"),
        *(f"options:remote_ip={hosts.host_ipv4(other)}", "options:key=1", *port),
    )
    lines = [
        "addr flush dev eth0",
        "link set br-phy up",
        "link set br0 up",
        f"addr add {hosts.host_ipv4(number)}/24 dev br-phy",
        f"route add 10.9.{other}.0/24 dev kbr0",
    ]
    ip("-n", host, "-batch", "-", batch="\n".join(lines) + "\n")
    lines = [
        "link set eth0 up",
        f"addr add 10.9.{number}.2/24 dev eth0",
        f"route add default via 10.9.{number}.1",
    ]
    ip("-n", pod, "-batch", "-", batch="\n".join(lines) + "\n")
    for command in (
        ("ethtool", "-K", "kbr0-br0", "tx", "off"),  # the switch takes packets as they are
        ("sysctl", "-q", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0"),
        ("sysctl", "-q", "net.ipv4.conf.kbr0.send_redirects=0"),
    ):
        argv = [*processes.enter(host), *command]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def remove_hosts(names: Names) -> None:
    """Remove what `hand_made` makes, also after a run that was killed."""
    present = names.present()
    processes.stop(processes.in_namespaces(present))
    for name in present:
        hosts.remove(name)


@contextlib.contextmanager
def hand_made(tunnel: str, directory: Path) -> Iterator[Path2]:
    """Two hosts of the recipe; from the pod of one to the pod of the other."""
    names = Names("benchovshand")
    try:
        remove_hosts(names)
        hosts.make_underlay(names, UNDERLAY_MTU, ipv6=False)
        for number in (1, 2):
            server = OvsServer(directory / f"hand-{tunnel}{number}", names.host(number))
            make_host(names, number, tunnel, server)
        path = Path2(HAND, names.pod(1, "p1"), names.pod(2, "p1"), "10.9.2.2")
        ping = [*processes.enter(path.client), "ping", "-qnc1", "-W1", path.address]
        wait_until(
            lambda: subprocess.run(ping, check=False, capture_output=True).returncode == 0,
            f"a ping over the {HAND} {tunnel} tunnel",
        )
        yield path
    finally:
        remove_hosts(names)


# -- traffic -------------------------------------------------------------------------------


@contextlib.contextmanager
def lab_of(spec: LabSpec, directory: Path) -> Iterator[Lab]:
    """A lab, up."""
    lab = Lab(spec, directory)
    try:
        lab.up()
        yield lab
    finally:
        lab.down()


def backend(tunnel: str, mesh: str) -> dict[str, object]:
    """The cluster config's Backend; `combined` gives the two hosts a port of their own."""
    config: dict[str, object] = {"Type": "ovs", "Tunnel": tunnel, "Mesh": mesh}
    rule = {"CIDR": f"{hosts.UNDERLAY_IPV4}.0/24", "Tunnel": tunnel, "Key": 7}
    return config | ({"Peers": [rule]} if mesh == "combined" else {})


def pod_path(name: str, lab: Lab) -> Path2:
    """From the first pod to the second one."""
    sender, receiver = lab.pods
    return Path2(name, sender.netns, receiver.netns, receiver.addresses[0])


@contextlib.contextmanager
def paths(tunnel: str, kernel: Lab, directory: Path) -> Iterator[list[Path2]]:
    """Everything to compare for one tunnel type; servers run."""
    with contextlib.ExitStack() as stack:
        found = [
            Path2(UNDERLAY, kernel.names.host(1), kernel.names.host(2), hosts.host_ipv4(2)),
            pod_path(KERNEL, kernel),
            stack.enter_context(hand_made(tunnel, directory)),
        ]
        for mesh in MESHES:
            spec = LabSpec(f"benchovs{mesh}", 2, 1, backend(tunnel, mesh))
            found.append(pod_path(mesh, stack.enter_context(lab_of(spec, directory))))
        for path in found:
            stack.enter_context(iperf_server(path.server))
        yield found


def traffic(tunnels: tuple[str, ...], seconds: int, rounds: int, directory: Path) -> Report:
    """Throughput and latency of each tunnel type."""
    figures = Figures()
    with lab_of(LabSpec("benchovskernel", 2, 1), directory) as kernel:
        for tunnel in tunnels:
            with paths(tunnel, kernel, directory) as found:
                for path in found:
                    round_trips(path, 1)  # megaflows, neighbours and FDBs are there
                for number in range(rounds):
                    turn = number % len(found)  # nobody is always the first, or after the fastest
                    for path in found[turn:] + found[:turn]:
                        before = busy_seconds()
                        rate = gigabits(path, seconds, ("-P", "1"))
                        busy = (busy_seconds() - before) / (rate * 1e9 * seconds / 8 / 2**30)
                        figures.note(path, f"{tunnel}: TCP 1 stream", "Gbit/s", rate)
                        figures.note(path, f"{tunnel}: CPU per GiB", "s", busy)
                    for path in found if number < PING_ROUNDS else ():
                        rtt = statistics.median(round_trips(path, 1))
                        figures.note(path, f"{tunnel}: round trip", "ms", rtt)
    return figures.report("ovs backend, pod to pod", HAND)


# -- scale ---------------------------------------------------------------------------------


def lease(number: int) -> bytes:
    """The lease of a made-up host."""
    high, low = divmod(number, 250)
    data = {"Tunnel": "vxlan", "Key": 1, "Port": IANA_PORT["vxlan"], "Mesh": "flow"}
    address = f"172.20.{high}.{low + 1}"
    return json.dumps({"PublicIP": address, "BackendType": "ovs", "BackendData": data}).encode()


async def serve_leases(endpoint: str) -> None:
    """Serve lines `FIRST COUNT` from stdin; answer with the moment before the first write."""
    async with Etcd([endpoint]) as etcd:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with gate:
                await etcd.put(f"{PREFIX}{subnet(number)}-24", lease(number))

        while line := await asyncio.to_thread(sys.stdin.readline):
            first, count = map(int, line.split())
            started = time.time()
            await asyncio.gather(*(one(number) for number in range(first, first + count)))
            print(started, flush=True)


@dataclass(slots=True)
class Subject:
    """The daemon under test."""

    lab: Lab
    writer: subprocess.Popen[str]
    first: int
    """Number of the first made-up host."""

    def write(self, first: int, count: int) -> float:
        """Write leases; returns the moment before the first write."""
        assert self.writer.stdin is not None  # noqa: S101 - pipes were asked for
        assert self.writer.stdout is not None  # noqa: S101
        self.writer.stdin.write(f"{self.first + first} {count}\n")
        self.writer.stdin.flush()
        return float(self.writer.stdout.readline())

    def ofctl(self, *words: str, text: str | None = None) -> str:
        """Call ovs-ofctl on the host; nothing while there is no bridge."""
        done = subprocess.run(
            ["ovs-ofctl", "-O", "OpenFlow14", "--no-names", *words],
            env=ovs_server.environment(self.lab.ovs(1).directory),
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def flows(self, match: str = OURS) -> int:
        """How many flows of obr0 a match covers; cheap, since the switch counts."""
        found = re.search(r"flow_count=(\d+)", self.ofctl("dump-aggregate", "obr0", match))
        return int(found[1]) if found else 0

    def cold_start(self, count: int) -> float:
        """Start on a host without a bridge; seconds to the flow of each of `count` peers."""
        self.lab.stop_daemon(1)
        names = ("obr0", "obr0-phy")
        self.lab.ovs(1).vsctl(*(w for n in names for w in ("--", "--if-exists", "del-br", n)))
        (self.lab.host_dir(1) / "flatmeshd.log").write_text("")
        started = time.perf_counter()
        self.lab.start_daemon(1)
        wait_until(lambda: self.flows() == count, f"flows of {count} peers")
        elapsed = time.perf_counter() - started
        self.lab.wait_ready(1)
        return elapsed

    def one_more(self, number: int) -> float:
        """Milliseconds from before a lease's write to its flow."""
        match = f"table=50,ip,nw_dst={subnet(self.first + number)}/24"
        started = self.write(number, 1)
        deadline = time.monotonic() + 30
        while not self.flows(match):
            if time.monotonic() > deadline:
                raise click.ClickException(f"not within 30 s: a flow {match}")
        return (time.time() - started) * 1000

    def restart(self, count: int) -> float:
        """Kill ovs-vswitchd and start it; seconds from its first answer to all flows."""
        server = self.lab.ovs(1)
        server.stop("ovs-vswitchd", grace=0)
        server.start_switch()
        started = time.perf_counter()
        wait_until(lambda: self.flows() == count, f"flows of {count} peers")
        return time.perf_counter() - started

    def cpu(self) -> float:
        """CPU seconds that the daemon took so far, without its children."""
        stat = Path(f"/proc/{self.lab.daemon_pid(1)}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / TICK

    def in_daemon(self) -> float | None:
        """Milliseconds of one change in the daemon's log, median; None: it logged none."""
        found = [float(ms) for ms, why in CHANGES.findall(self.lab.log(1)) if why != "start"]
        return statistics.median(found) if found else None

    def by_hand(self, flows: list[str], last: list[str]) -> tuple[float, float]:
        """Seconds of ovs-ofctl writing all flows to a new bridge, and then the last peer's."""
        server = self.lab.ovs(1)
        try:
            server.vsctl("add-br", "hand", "--", "set", "bridge", "hand", "datapath_type=netdev")
            whole = self._timed_add([flow for flow in flows if flow not in last])
            one = statistics.median(self._timed_add(last) for _ in range(5))
            there = len(self.ofctl("dump-flows", "hand", "--no-stats").splitlines())
            if there < len(flows):
                raise click.ClickException(f"ovs-ofctl wrote {there} of {len(flows)} flows")
            return whole, one
        finally:
            server.vsctl("--if-exists", "del-br", "hand")

    def _timed_add(self, flows: list[str]) -> float:
        started = time.perf_counter()
        self.ofctl("--bundle", "add-flows", "hand", "-", text="\n".join(flows) + "\n")
        return time.perf_counter() - started


@contextlib.contextmanager
def subject(directory: Path) -> Iterator[Subject]:
    """A lab of one host with a lease writer beside its etcd."""
    spec = LabSpec("benchovsscale", 1, 0, backend("vxlan", "flow"), network="10.0.0.0/8")
    with lab_of(spec, directory) as lab:
        inside = processes.enter(lab.names.underlay)
        command = (sys.executable, "-m", "bench.ovs", "--write-leases", lab.endpoint)
        with subprocess.Popen(
            [*inside, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as writer:
            own = int(lab.subnet(1).split(".")[1])
            try:
                yield Subject(lab, writer, FAR if 64 <= own < 96 else 0)
            finally:
                writer.kill()


def measure(daemon: Subject, there: int, count: int, report: Report) -> None:
    """All figures with `count` leases present, of which `there` already are."""
    label = f"{count} leases: "
    daemon.write(there, count - there)
    cold = daemon.cold_start(count)
    before = daemon.cpu()
    time.sleep(SETTLING)
    settling = daemon.cpu() - before
    singles = []
    for number in range(SINGLES):
        time.sleep(QUIET)
        singles.append(daemon.one_more(count + number))
    crowded = [daemon.one_more(count + SINGLES + number) for number in range(SINGLES)]
    inside = daemon.in_daemon()
    restart = daemon.restart(count + 2 * SINGLES)
    daemon.lab.stop_daemon(1)  # it would mend a strange bridge's changes meanwhile
    flows = daemon.ofctl("dump-flows", "obr0", "--no-stats").splitlines()
    number = daemon.first + count + 2 * SINGLES - 1
    marks = (f"{subnet(number)}/", json.loads(lease(number))["PublicIP"] + ",")
    whole, one = daemon.by_hand(flows, [f for f in flows if any(mark in f for mark in marks)])
    report.add(DAEMON, f"{label}flows", len(flows), "")
    report.add(HAND, f"{label}cold", whole, "s")
    report.add(DAEMON, f"{label}cold", cold, "s")
    report.add(HAND, f"{label}one more lease", one * 1000, "ms")
    report.add(DAEMON, f"{label}one more lease", statistics.median(singles), "ms")
    report.add(DAEMON, f"{label}back to back", statistics.median(crowded), "ms")
    report.add(DAEMON, f"{label}settling", settling, "s CPU")
    report.add(DAEMON, f"{label}restart", restart, "s")
    if inside is not None:
        report.add(DAEMON, f"{label}in the daemon", inside, "ms")


def scale(leases: tuple[int, ...], directory: Path, report: Report) -> None:
    """One daemon among more and more leases."""
    with subject(directory) as daemon:
        there = 0
        for count in sorted(leases):
            measure(daemon, there, count, report)
            there = count + 2 * SINGLES


# -- the command ---------------------------------------------------------------------------


def show_goals(report: Report, tunnels: tuple[str, ...]) -> None:
    """Say how the meshes stand against the goals."""
    for tunnel in tunnels:
        for what, how, goal in GOALS:
            ratios = [(mesh, report.ratio(mesh, f"{tunnel}: {what}")) for mesh in MESHES]
            text = ", ".join(f"{mesh} {ratio:.2f}" for mesh, ratio in ratios)
            print(f"{tunnel}: {what}: {text} times {HAND}; the goal is {how} {goal:.2f}")


@click.command(help=__doc__.partition("\n")[0])
@click.option("--seconds", default=1, show_default=True, help="Per iperf3 run.")
@click.option("--rounds", default=5, show_default=True, help="Runs per figure; the median counts.")
@click.option(
    "--tunnel",
    "tunnels",
    multiple=True,
    type=click.Choice(TUNNELS),
    default=("gre", "vxlan"),
    show_default=True,
)
@click.option("--leases", type=int, multiple=True, default=(1000, 5000), show_default=True)
@click.option("--only", type=click.Choice(["traffic", "scale"]), help="Leave out the other.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write it there too.")
@click.option("--write-leases", metavar="ENDPOINT", hidden=True)
def main(
    seconds: int,
    rounds: int,
    tunnels: tuple[str, ...],
    leases: tuple[int, ...],
    only: str | None,
    json_file: Path | None,
    write_leases: str | None,
) -> None:
    """Measure and print."""
    if write_leases is not None:
        asyncio.run(serve_leases(write_leases))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is cleaned up
    report = Report("ovs backend", HAND)
    try:
        with tempfile.TemporaryDirectory() as directory:
            if only != "scale":
                report = traffic(tunnels, seconds, rounds, Path(directory))
            if only != "traffic":
                scale(leases, Path(directory), report)
    except (LabError, RuntimeError) as error:
        raise click.ClickException(str(error)) from None
    finally:  # a fault in the second half doesn't take the first one's figures away
        if report.rows:
            report.show(json_file)
            if only != "scale":
                show_goals(report, tunnels)


if __name__ == "__main__":
    main()
