# SPDX-License-Identifier: Apache-2.0
"""Firewalls of other programs on the hosts: they let the pods' packets through, and only these.

Each test starts with a host whose firewall drops what it forwards, as Docker makes it.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import processes
from lab.cluster import Lab
from lab.time_factor import scaled
from lab.watched_stream import SEND_INTERVAL, watched_stream
from tests.scenario.conftest import running_lab

On = Callable[..., str]
Eventually = Callable[..., None]
REACHED = 1.0
"""Seconds that a probe waits for its answer."""
TOOLS = [f"{family}-{form}" for form in ("nft", "legacy") for family in ("iptables", "ip6tables")]


def unreached(lab: Lab) -> list[str]:
    return [
        f"{pair.sender} -> {pair.receiver}"
        for family in (4, 6)
        for pair in lab.matrix(family, REACHED)
        if pair.rtt is None
    ]


def other_host_reached(lab: Lab, on: On) -> bool:
    """Whether a pod of the first host reaches one of the second: cheaper than all pairs."""
    first, *_, last = lab.pods
    return "1 received" in on(first.netns, f"ping -c 1 -W 1 {last.addresses[0]}", check=False)


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts with two pods each, both families, without masquerade."""
    with running_lab(
        request.config, tmp_path_factory.mktemp("labs"), hosts=2, pods_per_host=2, ipv6=True
    ) as made:
        yield made


@pytest.fixture
def host(lab: Lab, on: On) -> Iterator[str]:
    """The first host; whatever a test puts into its firewall is gone afterwards."""
    netns = lab.names.host(1)
    yield netns
    for tool in TOOLS:
        for command in ("-P FORWARD ACCEPT", "-F", "-X"):
            on(netns, f"{tool} {command}", check=False)
    for family in ("ip", "ip6"):
        on(netns, f"nft delete table {family} filter", check=False)


@pytest.mark.parametrize("form", ["nft", "legacy"])
def test_a_forward_chain_that_drops_lets_pods_through(
    lab: Lab, host: str, on: On, eventually: Eventually, form: str
) -> None:
    for family in ("iptables", "ip6tables"):
        on(host, f"{family}-{form} -P FORWARD DROP")
    eventually(lambda: unreached(lab) == [], "all pods are reached")
    rules = on(host, f"iptables-{form}-save -t filter")
    accepts = [line for line in rules.splitlines() if line.endswith("ACCEPT")]
    assert [line.split()[2:4] for line in accepts] == [
        ["-s", "10.5.0.0/16"],
        ["-d", "10.5.0.0/16"],
        ["-i", "flatmesh-in"],
    ]


@pytest.mark.parametrize(
    "change",
    [
        "iptables -F",
        "iptables -D FORWARD 1",
        "iptables -F FLATMESH-FORWARD",
        "iptables -I FORWARD 1 -j REJECT",
        "nft delete table ip filter",
    ],
)
def test_what_others_change_is_put_right(
    lab: Lab, host: str, on: On, eventually: Eventually, change: str
) -> None:
    on(host, "iptables -P FORWARD DROP")
    eventually(lambda: "FLATMESH" in on(host, "iptables-save -t filter"), "the rules are there")
    on(host, change)
    on(host, "iptables -P FORWARD DROP")
    done = time.monotonic()
    eventually(lambda: other_host_reached(lab, on), "it is put right")
    assert time.monotonic() - done < 10  # a resync would take minutes
    eventually(lambda: unreached(lab) == [], "all pods are reached")


def test_what_is_not_of_the_cluster_is_still_dropped(
    lab: Lab, host: str, on: On, eventually: Eventually
) -> None:
    on(host, "iptables -P FORWARD DROP")
    eventually(lambda: unreached(lab) == [], "all pods are reached")
    on(host, "ip link add other type veth peer name peer")
    try:
        on(host, "ip link set other up")
        on(host, "ip addr add 172.31.0.1/24 dev other")
        before = on(host, "iptables -L FORWARD -v -x -n").splitlines()[0]
        other = lab.names.host(2)
        on(other, "ip route add 172.31.0.0/24 via 192.168.64.1", check=False)
        on(other, f"ip route replace 172.31.0.0/24 via {_underlay(lab, on, 1)}")
        on(other, "ping -c 1 -W 1 172.31.0.2", check=False)
        after = on(host, "iptables -L FORWARD -v -x -n").splitlines()[0]
        assert before != after, "the policy's counter has not moved"
        on(other, "ip route del 172.31.0.0/24")
    finally:
        on(host, "ip link del other")


def test_a_chain_of_nftables_that_drops_is_reported(
    lab: Lab, host: str, on: On, eventually: Eventually
) -> None:
    on(host, "nft add table inet corporate")
    on(
        host,
        "nft add chain inet corporate forward { type filter hook forward priority 0 ; "
        "policy drop ; }",
    )
    words = "nftables chain inet corporate forward drops what this host forwards: accept"
    try:
        eventually(lambda: words in lab.log(1), "the log says which chain drops")
        lines = [line for line in lab.log(1).splitlines() if words in line]
        assert len(lines) == 1
        for rule in ("ip saddr 10.5.0.0/16", "ip daddr 10.5.0.0/16"):
            on(host, f"nft insert rule inet corporate forward {rule} accept")
    finally:
        on(host, "nft delete table inet corporate")


@contextlib.contextmanager
def dockerd(netns: str, directory: Path) -> Iterator[None]:
    """Debian's Docker in a host's namespace, ready to be used."""
    directory.mkdir()
    process = processes.spawn(
        [
            *("dockerd", "--data-root", str(directory / "data")),
            *("--exec-root", str(directory / "exec"), "--pidfile", str(directory / "pid")),
            *("--host", f"unix://{directory}/socket", "--storage-driver", "vfs"),
        ],
        netns,
        directory / "log",
    )
    try:
        deadline = time.monotonic() + 30
        while "API listen on" not in (text := (directory / "log").read_text()):
            assert process.poll() is None, text[-2000:]
            assert time.monotonic() < deadline, text[-2000:]
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)
        subprocess.run(["umount", str(directory / "data")], check=False, capture_output=True)


@pytest.mark.parametrize("first", ["flatmeshd", "docker"])
def test_beside_docker(
    make_lab: Callable[..., Lab],
    on: On,
    eventually: Eventually,
    tmp_path_factory: pytest.TempPathFactory,
    first: str,
) -> None:
    """Docker sets FORWARD's policy to DROP when it switches forwarding on; here it always does."""
    lab = make_lab(hosts=2, pods_per_host=2, ipv6=True)
    host = lab.names.host(1)
    if first == "docker":
        lab.stop_daemon(1)
        on(host, "sysctl -q -w net.ipv4.ip_forward=0")
    directory = tmp_path_factory.mktemp("d")  # short: containerd has unix sockets in it
    with dockerd(host, directory / "1"):
        if first == "docker":
            assert ":FORWARD DROP" in on(host, "iptables-save -t filter")
            assert not other_host_reached(lab, on)
            lab.start_daemon(1)
            lab.wait_ready(1)
        else:
            on(host, "iptables -P FORWARD DROP")
        eventually(lambda: unreached(lab) == [], "all pods are reached")
        assert "-A FORWARD -j DOCKER-USER" in on(host, "iptables-save -t filter")
    if first == "docker":
        with dockerd(host, directory / "2"):  # it puts its own rules first, again
            assert unreached(lab) == []
    lab.stop_daemon(1)
    lab.daemon(1).start("--cleanup", "--force").wait(30)
    assert "FLATMESH" not in on(host, "iptables-save")


BUS = """\
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""


@contextlib.contextmanager
def firewalld(netns: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Debian's firewalld in a host's namespace, with a D-Bus and settings of its own."""
    socket = directory / "bus"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={socket}")
    (directory / "bus.conf").write_text(BUS.format(socket=socket))
    bus = ["dbus-daemon", f"--config-file={directory}/bus.conf", "--nofork", "--nopidfile"]
    itself = ["firewalld", "--nofork", "--nopid", f"--system-config={directory}"]
    started = [processes.spawn(bus, netns, directory / "bus.log")]
    try:
        _wait(socket.exists, directory / "bus.log")
        started.append(processes.spawn(itself, netns, directory / "firewalld.log"))
        state = [*processes.enter(netns), "firewall-cmd", "--state"]
        _wait(
            lambda: subprocess.run(state, capture_output=True, check=False).returncode == 0,
            directory / "firewalld.log",
        )
        yield
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(20)


def _wait(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.1)


def test_beside_firewalld(
    make_lab: Callable[..., Lab],
    on: On,
    eventually: Eventually,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tunnel's port is the administrator's to open, as with flannel; forwarding is ours."""
    lab = make_lab(hosts=2, pods_per_host=2, ipv6=True)
    host = lab.names.host(1)
    lab.stop_daemon(1)
    with firewalld(host, tmp_path_factory.mktemp("d"), monkeypatch):
        on(host, "firewall-cmd --zone=public --add-port=8472/udp")
        assert not other_host_reached(lab, on)
        lab.start_daemon(1)
        lab.wait_ready(1)
        eventually(lambda: unreached(lab) == [], "all pods are reached")
        on(host, "firewall-cmd --reload")
        on(host, "firewall-cmd --zone=public --add-port=8472/udp")
        eventually(lambda: unreached(lab) == [], "all pods are reached after a reload")
        lab.stop_daemon(1)
        lab.daemon(1).start("--cleanup", "--force").wait(30)
        assert on(host, "firewall-cmd --zone=trusted --list-sources").split() == []


@pytest.fixture
def ufw(tmp_path: Path) -> Callable[[str, str], str]:
    """Debian's ufw in a host's namespace, with settings of its own."""
    shutil.copytree("/etc/ufw", tmp_path / "ufw")
    shutil.copy("/etc/default/ufw", tmp_path / "default")
    mounts = f"mount --bind {tmp_path}/ufw /etc/ufw && mount --bind {tmp_path}/default"

    def run(netns: str, command: str) -> str:
        script = f"{mounts} /etc/default/ufw && exec ufw {command}"
        argv = [*processes.enter(netns), "unshare", "-m", "sh", "-c", script]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_beside_ufw(
    lab: Lab, host: str, on: On, eventually: Eventually, ufw: Callable[[str, str], str]
) -> None:
    """Routed packets are denied; a reload cuts pods until the daemon has looked, and no longer."""
    first, *_, last = lab.pods
    ufw(host, "allow 8472/udp")
    ufw(host, "default deny routed")
    with watched_stream(first, last) as stream:

        def flows() -> None:
            before = stream.received
            eventually(lambda: stream.received > before + 100, "packets arrive again")

        flows()
        ufw(host, "--force enable")
        assert "-P FORWARD DROP" in on(host, "iptables -S FORWARD")
        flows()
        for _ in range(2):
            ufw(host, "reload")
            flows()
    # three looks, one of them by the clock at the latest
    assert stream.lost * SEND_INTERVAL < scaled(3 * 6.0)
    eventually(lambda: unreached(lab) == [], "all pods are reached")
    assert "10.5.0.0/16" in on(host, "iptables -S FLATMESH-FORWARD")
    ufw(host, "--force disable")
    eventually(lambda: unreached(lab) == [], "all pods are reached without it")


def _underlay(lab: Lab, on: On, number: int) -> str:
    words = on(lab.names.host(number), "ip -4 -o addr show dev eth0").split()
    return words[words.index("inet") + 1].partition("/")[0]
