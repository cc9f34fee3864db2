# SPDX-License-Identifier: Apache-2.0
"""The temporary pod of a check: made and removed by the CNI plugin, as a runtime would.

Its network namespace has no name: it is held by a descriptor of this process alone. So when the
process dies, however, the kernel removes the namespace with all that is in it, and the sweep of
the CNI server gives the address back (`cni.pod.collect`).
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from base import paths
from base.errors import FlatmeshError
from cni.config.call import CniCall
from cni.handle import answered, handle
from cni.host import PluginHost
from cni.socket.protocol import ANSWER, ANSWER_MAGIC, REQUEST, REQUEST_MAGIC, RUN_IT_YOURSELF
from hostnet.netns import run_in_new

NETWORK = "flatmesh-check"
CONFIG = {"cniVersion": "1.0.0", "name": NETWORK, "type": "flatmesh"}
CALL_TIMEOUT = 20.0  # seconds


class CheckPodError(FlatmeshError):
    """The temporary pod can't be made; the plugin's own line."""


@dataclass(slots=True)
class CheckPod:
    """One temporary pod."""

    host: PluginHost
    container: str
    by_daemon: bool
    """Whether the daemon answers CNI calls; else they are answered in this process."""
    netns: int = -1
    """A descriptor of its namespace."""
    addresses: tuple[str, ...] = ()

    def make(self) -> None:
        """ADD. Raises CheckPodError, OSError; then nothing is left."""
        self.netns = run_in_new(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY))
        try:
            result = self._call("ADD")
        except BaseException:
            self.remove()
            raise
        self.addresses = tuple(str(ip["address"]).partition("/")[0] for ip in result["ips"])

    def remove(self) -> None:
        """DEL, and let the namespace go. Raises CheckPodError, OSError."""
        if self.netns < 0:
            return
        try:
            self._call("DEL")
        finally:
            os.close(self.netns)
            self.netns = -1

    def _call(self, command: str) -> Mapping[str, Any]:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.container,
            "CNI_NETNS": f"/proc/{os.getpid()}/fd/{self.netns}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": paths.CNI_BIN_DIR,
        }
        stdin = json.dumps(CONFIG).encode()
        status, stdout = RUN_IT_YOURSELF, b""
        if self.by_daemon:
            path = self.host.run_dir / paths.CNI_SOCKET
            status, stdout = ask_daemon(path, environment, stdin, self.netns)
        if status == RUN_IT_YOURSELF:
            response = handle(CniCall("flatmesh", environment, stdin, self.netns), self.host)
            answered(response, self.host)
            status, stdout = response.status, response.stdout
        answer = json.loads(stdout) if stdout.strip() else {}
        if status:
            raise CheckPodError(f"CNI {command}: {answer.get('msg', 'failed')}")
        return answer if isinstance(answer, dict) else {}


def ask_daemon(
    path: Path, environment: Mapping[str, str], stdin: bytes, netns: int
) -> tuple[int, bytes]:
    """Make a call by the daemon's socket: exit status and stdout. Raises OSError.

    `cni.socket.client` is the same for an executable.
    """
    block = b"".join(f"{name}={text}\0".encode() for name, text in environment.items())
    message = REQUEST.pack(REQUEST_MAGIC, len(b"flatmesh"), len(block), len(stdin))
    message += b"flatmesh" + block + stdin
    own = [os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt")]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(CALL_TIMEOUT)
            connection.connect(str(path))
            fds = array.array("i", [*own, netns])
            connection.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            data = b""
            while part := connection.recv(1 << 16):
                data += part
    finally:
        for fd in own:
            os.close(fd)
    if len(data) < ANSWER.size:
        raise CheckPodError(f"{path}: the daemon closed the connection unanswered")
    magic, status, length = ANSWER.unpack_from(data)
    if magic != ANSWER_MAGIC or len(data) < ANSWER.size + length:
        raise CheckPodError(f"{path}: the daemon's answer is broken")
    return int(status), data[ANSWER.size :]
