# SPDX-License-Identifier: Apache-2.0
"""A host in a network namespace of its own, called as a container runtime calls it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hostnet import netns

DEADLINE = 60.0  # seconds, for anything that is waited for
REFERENCE = Path("/usr/lib/cni")  # Debian's containernetworking-plugins
CONF = {"cniVersion": "1.0.0", "name": "pods", "type": "flatmesh"}
SUBNET_ENV = """FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.72.1/22
FLANNEL_IPV6_NETWORK=fd00:5::/48
FLANNEL_IPV6_SUBNET=fd00:5:0:7::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
"""


class MakeConf(Protocol):
    """Makes a network config: the shortest one with changes; a key given as None is left out."""

    def __call__(self, **changes: Any) -> dict[str, Any]: ...


MakeHost = Callable[[Path, Path], AbstractContextManager["CniHost"]]
"""Makes a host in a directory, with the executables of another."""


@dataclass
class Answer:
    """What a plugin printed, and its exit status."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.stdout) if self.stdout.strip() else None

    @property
    def code(self) -> int:
        return int(self.body["code"]) if self.status else 0

    def result(self) -> Any:
        """The result of a call that must have succeeded."""
        assert self.status == 0, f"{self.stdout!r} {self.stderr!r}"
        assert self.stderr == b"", self.stderr
        return self.body

    def refused(self, code: int) -> str:
        """The message of a call that must have been refused, with this code and nothing else."""
        assert self.status != 0, f"accepted: {self.stdout!r}"
        assert self.stderr == b"", self.stderr
        assert self.body["code"] == code, self.body
        assert self.body["msg"], self.body
        assert "\n" not in self.body["msg"]
        assert "Traceback" not in self.body["msg"]
        return str(self.body["msg"])


@dataclass
class Call:
    """A plugin that runs, and what it is to read from its stdin."""

    process: subprocess.Popen[bytes]
    stdin: bytes


@dataclass
class CniHost:
    """One host, its files below `directory`."""

    name: str
    directory: Path
    bin_dir: Path
    socket: str | None = None
    """Where the daemon is expected; None: the run directory's."""
    server: subprocess.Popen[str] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    """Added to every call."""
    pods: list[str] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        """The environment by which the plugins find this host's files."""
        found = {
            "FLATMESH_RUN_DIR": str(self.directory / "run"),
            "FLATMESH_STATE_DIR": str(self.directory / "state"),
            "FLATMESH_SUBNET_FILE": str(self.directory / "subnet.env"),
            "PATH": os.environ["PATH"],
            **self.environment,
        }
        if self.socket is not None:
            found["FLATMESH_SOCKET"] = self.socket
        return found

    @property
    def cni_path(self) -> str:
        return f"{self.bin_dir}:{REFERENCE}"

    def serve(self, **variables: str) -> None:
        """Start the CNI half of the daemon; wait until it serves."""
        self.server = subprocess.Popen(
            [*self.enter, sys.executable, "-I", "-m", "cni.socket.server"],
            env={**self.variables, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.server.stdout is not None
        assert self.server.stdout.readline() == "ready\n"

    def kill_server(self, how: int = signal.SIGKILL) -> None:
        if self.server is not None:
            self.server.send_signal(how)
            self.server.wait(DEADLINE)
            if self.server.stdout is not None:
                self.server.stdout.close()
            self.server = None

    @property
    def enter(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    def pod(self) -> str:
        """A fresh container namespace; its path."""
        name = f"{self.name}-{secrets.token_hex(4)}"
        self.pods.append(name)
        return str(netns.create(name))

    def remove_pod(self, path: str) -> None:
        name = Path(path).name
        self.pods.remove(name)
        netns.remove(name)

    def start(
        self,
        command: str,
        conf: Any = None,
        container: str = "",
        pod: str = "",
        *,
        plugin: str = "flatmesh",
        ifname: str = "eth0",
        stdin: bytes | None = None,
        environment: Mapping[str, str | None] | None = None,
    ) -> Call:
        """Call a plugin, without waiting for it. A variable that is None is left out."""
        program = self.bin_dir / plugin
        if not program.exists():
            program = REFERENCE / plugin
        variables: dict[str, str | None] = {
            **self.variables,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": pod,
            "CNI_IFNAME": ifname,
            "CNI_PATH": self.cni_path,
            **(environment or {}),
        }
        process = subprocess.Popen(
            [*self.enter, str(program)],
            env={k: v for k, v in variables.items() if v is not None},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        if stdin is None:
            stdin = json.dumps(CONF if conf is None else conf).encode()
        return Call(process, stdin)

    def finish(self, call: Call) -> Answer:
        out, err = call.process.communicate(call.stdin, DEADLINE)
        return Answer(call.process.returncode, out, err)

    def call(self, *args: Any, **kwargs: Any) -> Answer:
        """Call a plugin and wait for its answer."""
        return self.finish(self.start(*args, **kwargs))

    def ip(self, *arguments: str, pod: str | None = None) -> Any:
        """ip(8) in this host, or in a pod, as JSON."""
        name = Path(pod).name if pod is not None else self.name
        done = subprocess.run(
            ["ip", "-n", name, "-json", "-details", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        return json.loads(done.stdout) if done.stdout.strip() else []

    def run(self, *command: str, pod: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in this host, or in a pod."""
        enter = ["nsenter", f"--net={pod}"] if pod is not None else self.enter
        return subprocess.run(
            [*enter, *command], capture_output=True, text=True, check=False, timeout=DEADLINE
        )

    def host_interfaces(self) -> list[str]:
        """Host sides of pods' veth pairs."""
        return [link["ifname"] for link in self.ip("link", "show", "type", "veth")]

    def records(self) -> list[tuple[str, str, str]]:
        """The attachments in the address store, read without the daemon."""
        from ipam.address_store import AddressStore

        with AddressStore(self.directory / "state" / "addresses.sqlite") as store:
            return [tuple(record.attachment) for record in store.list()]  # type: ignore[misc]

    def held(self) -> list[str]:
        """All addresses that somebody holds, one entry per holder."""
        from ipam.address_store import AddressStore

        with AddressStore(self.directory / "state" / "addresses.sqlite") as store:
            return [str(address) for record in store.list() for address in record.addresses]

    def forget_all(self) -> None:
        """Remove what a failed test left, so that the next one does not fail too."""
        from ipam.address_store import AddressStore

        with AddressStore(self.directory / "state" / "addresses.sqlite") as store:
            for record in store.list():
                store.release(record.attachment)
        for link in self.ip("link", "show"):
            if link["ifname"] not in ("lo", "kbr0"):
                self.run("ip", "link", "del", link["ifname"])

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"gave up waiting: {what}"
            time.sleep(0.01)

    def clear(self) -> None:
        for name in list(self.pods):
            with contextlib.suppress(OSError):
                netns.remove(name)
        self.pods.clear()


def addresses(host: CniHost, pod: str, name: str = "eth0") -> set[str]:
    """A pod's global addresses, with prefix lengths."""
    (link,) = host.ip("addr", "show", "dev", name, pod=pod)
    return {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"}


@contextlib.contextmanager
def made_host(directory: Path, bin_dir: Path) -> Iterator[CniHost]:
    host = CniHost(f"cni-{secrets.token_hex(3)}", directory, bin_dir)
    for part in ("run", "state"):
        (directory / part).mkdir()
    (directory / "subnet.env").write_text(SUBNET_ENV)
    netns.create(host.name)
    try:
        yield host
    finally:
        host.kill_server()
        host.clear()
        netns.remove(host.name)
