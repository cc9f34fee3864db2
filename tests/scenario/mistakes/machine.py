# SPDX-License-Identifier: Apache-2.0
"""The machine on which the mistakes are made: one namespace, three etcds, a web server.

192.168.64.11/24 on eth0; 192.0.2.0/24 is routed to where nobody answers
etcd: plain, with TLS and client certificates, with users
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hostnet.netns import run_in
from lab import hosts, processes
from lab.etcd_server import EtcdServer
from lab.time_factor import scaled
from tests.scenario.mistakes.row import Mistake

PORTS = {"etcd": 2379, "tls": 2479, "users": 2579, "web": 8080, "silent": 2700}
PROGRAMS = {
    "flatmesh": (sys.executable, "-I", "-m", "cli.main"),
    "flatmeshd": (sys.executable, "-I", "-m", "agent.main"),
    "install": (str(Path(__file__).parents[3] / "deploy/install"),),
}
GIVE_UP = 20.0  # seconds until a program that says nothing is ended
CONFIG = '{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}'


@dataclass(frozen=True)
class Answer:
    """What a program said, and after how many seconds the awaited words were there."""

    text: str
    status: int | None
    seconds: float


@dataclass(frozen=True)
class Machine:
    """Runs what is typed in its namespace, each time with directories of its own."""

    tmp: Path
    netns: str
    words: Mapping[str, str] = field(default_factory=dict)
    """What `{NAME}` stands for in a row."""

    def filled(self, text: str) -> str:
        for name, value in self.words.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def answer(self, row: Mistake, words: str) -> Answer:
        """Type it; a daemon that goes on running is ended when it has said `words`."""
        first, *rest = shlex.split(self.filled(row.command))
        argv = [*processes.enter(self.netns), *PROGRAMS.get(first, (first,)), *rest]
        own = self.tmp / f"run-{secrets.token_hex(4)}"
        own.mkdir()
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("FLANNELD_", "CNI_"))},
            "FLATMESH_RUN_DIR": str(own / "run"),
            "FLATMESH_STATE_DIR": str(own / "state"),
            "FLATMESH_SUBNET_FILE": str(own / "subnet.env"),
            "FLATMESH_LAB_DIR": str(own / "labs"),
            **{name: self.filled(value) for name, value in row.environment.items()},
        }
        log = own / "output"
        started = time.monotonic()
        with log.open("wb") as output:
            program = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment
            )
        with program:
            assert program.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                program.stdin.write(self.filled(row.stdin).encode())
                program.stdin.close()
            deadline = started + scaled(GIVE_UP)
            while program.poll() is None and time.monotonic() < deadline:
                if row.status is None and words in log.read_text():
                    break
                time.sleep(0.01)
            seconds, status = time.monotonic() - started, program.poll()
            if status is None:
                program.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.wait(scaled(GIVE_UP))
                program.kill()
        return Answer(log.read_text(errors="replace"), status, seconds)


@contextlib.contextmanager
def machine(tmp: Path) -> Iterator[Machine]:
    """Make it, and remove it after the block."""
    netns = f"fm-mistakes{secrets.token_hex(3)}"
    nobody = f"{netns}-nobody"
    with contextlib.ExitStack() as stack:
        for name in (netns, nobody):
            hosts.ip("netns", "add", name)
            stack.callback(hosts.remove, name)
            stack.callback(end_all_in, name)
            hosts.ip("-n", name, "link", "set", "lo", "up")
        hosts.ip(*f"link add eth0 netns {netns} type veth peer name eth0 netns {nobody}".split())
        lines = ["link set eth0 up", "addr add 192.168.64.11/24 dev eth0"]
        lines.append("route add default via 192.168.64.1")
        hosts.ip("-n", netns, "-batch", "-", batch="\n".join(lines) + "\n")
        lines = ["link set eth0 up", "addr add 192.168.64.1/24 dev eth0"]
        lines.append("route add blackhole 192.0.2.0/24")
        hosts.ip("-n", nobody, "-batch", "-", batch="\n".join(lines) + "\n")
        certs = tmp / "certs"
        make_certificates(certs)
        (tmp / "wrong").write_text("wrong\n")
        (tmp / "wrong").chmod(0o600)
        (tmp / "cluster.json").write_text(CONFIG)
        start_etcds(tmp, netns, certs)
        plugins = [sys.executable, "-I", "-m", "cni.install", "--bin-dir", str(tmp / "bin")]
        subprocess.run(plugins, check=True, capture_output=True)
        web = [sys.executable, "-m", "http.server", str(PORTS["web"]), "--bind", "127.0.0.1"]
        processes.spawn([*web, "--directory", str(certs)], netns, tmp / "web.log")
        stack.enter_context(silent_port(netns))
        words = {name: str(port) for name, port in PORTS.items()}
        yield Machine(
            tmp, netns, {**words, "certs": str(certs), "bin": str(tmp / "bin"), "tmp": str(tmp)}
        )


def silent_port(netns: str) -> socket.socket:
    """A port that takes connections, and answers nothing: a program that hangs."""

    def opened() -> socket.socket:
        return socket.create_server(("127.0.0.1", PORTS["silent"]))

    return run_in(processes.NETNS_DIR / netns, opened)


def end_all_in(netns: str) -> None:
    processes.stop(processes.in_namespaces([netns]))


def start_etcds(tmp: Path, netns: str, certs: Path) -> None:
    """Plain with a cluster config, with TLS, with users."""

    def server(name: str, scheme: str, *flags: str) -> EtcdServer:
        port = PORTS[name]
        urls = f"{scheme}://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
        return EtcdServer(tmp / name, *urls, netns=netns, flags=flags, die_with_caller=True)

    tls = server(
        *("tls", "https", f"--cert-file={certs}/server.pem", f"--key-file={certs}/server.key"),
        *("--client-cert-auth", f"--trusted-ca-file={certs}/ca.pem"),
    )
    plain, users = server("etcd", "http"), server("users", "http")
    for one in (plain, tls, users):
        one.start(wait=False)
    for one in (plain, tls, users):
        one.wait()
    plain.ctl("put", "/coreos.com/network/config", CONFIG)
    plain.ctl("put", "/large/config", CONFIG.replace('"vxlan"', '"vxlan","MTU":9000'))
    plain.ctl("put", "/junk/config", "junk")
    users.ctl("user", "add", "root:right")
    users.ctl("user", "grant-role", "root", "root")
    users.ctl("auth", "enable")


def make_certificates(directory: Path) -> None:
    """Two CAs, and certificates of theirs."""
    directory.mkdir()

    def openssl(arguments: str) -> None:
        argv = ["openssl", *arguments.split()]
        subprocess.run(argv, cwd=directory, check=True, capture_output=True)

    key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for ca in ("ca", "other"):
        openssl(f"req -x509 {key} -days 30 -keyout {ca}.key -out {ca}.pem -subj /CN={ca}")
    for name, ca, days in (
        ("server", "ca", 30),
        ("client", "ca", 30),
        ("stranger", "other", 30),
        ("expired", "ca", 0),
    ):
        openssl(f"req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}")
        openssl(
            f"x509 -req -in {name}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial "
            f"-days {days} -extfile names -out {name}.pem"
        )
    openssl("ec -in client.key -aes128 -passout pass:secret -out locked.key")
    openssl("x509 -in client.pem -outform der -out client.der")
