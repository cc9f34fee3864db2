# SPDX-License-Identifier: Apache-2.0
"""A node with a real containerd: own mounts and network, the process ids of everybody."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from scheduler.runtime.containerd.driver import ContainerdRuntime

DEADLINE = 120.0  # seconds, for anything that is waited for
NODE = "fm-test-cri"
SETUP = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mkdir -p /run/netns
mount --bind /run/netns /run/netns
mount --make-shared /run/netns
ip link set lo up
: > "$1/ready"
exec sleep 1000000
"""
CONFIG = """
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "{directory}/cri.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/fm-busybox:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{directory}/net.d"
"""


class ContainerdNode:
    """Its namespaces are held by a process, so containerd can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.holder: subprocess.Popen[bytes] | None = None
        self.containerd: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "cri.sock"

    def open(self, image: Path) -> None:
        (self.directory / "net.d").mkdir()
        ipam = {
            "type": "host-local",
            "subnet": "10.98.0.0/24",
            "dataDir": str(self.directory / "ipam"),
        }
        conflist = {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [{"type": "ptp", "ipam": ipam}],
        }
        (self.directory / "net.d/10-pods.conflist").write_text(json.dumps(conflist))
        (self.directory / "containerd.toml").write_text(CONFIG.format(directory=self.directory))
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-c", SETUP, "setup", str(self.directory)],
            stdin=subprocess.DEVNULL,
        )
        self._until((self.directory / "ready").exists)
        self.start()
        subprocess.run(
            [
                *self.enter,
                *("ctr", "-a", str(self.socket), "-n", "k8s.io", "images", "import"),
                *("--snapshotter", "native", str(image)),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    @property
    def enter(self) -> list[str]:
        assert self.holder is not None
        return ["nsenter", f"--target={self.holder.pid}", "-m", "-n", "--"]

    def start(self) -> None:
        with (self.directory / "containerd.log").open("ab") as log:
            self.containerd = subprocess.Popen(
                [*self.enter, "containerd", "--config", str(self.directory / "containerd.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._until(self._answers)

    def _answers(self) -> bool:
        done = subprocess.run(
            ["ctr", "-a", str(self.socket), "version"], capture_output=True, check=False
        )
        return done.returncode == 0

    def _until(self, condition: object) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def log(self) -> str:
        return (self.directory / "containerd.log").read_text()[-4000:]

    def kill(self) -> None:
        assert self.containerd is not None
        self.containerd.kill()
        self.containerd.wait(DEADLINE)

    def close(self) -> None:
        for process in (self.containerd, self.holder):
            if process is not None:
                process.terminate()
                process.wait(DEADLINE)

    def runtime(self) -> ContainerdRuntime:
        state, run = self.directory / "state", self.directory / "run"
        return ContainerdRuntime(NODE, state, run, self.socket)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[ContainerdRuntime]:
        runtime = self.runtime()
        await runtime.open()
        try:
            yield runtime
        finally:
            for pod in await runtime.list():
                await runtime.remove(pod.id)
            await runtime.close()


@contextlib.contextmanager
def containerd_node(directory: Path, image: Path) -> Iterator[ContainerdNode]:
    node = ContainerdNode(directory)
    try:
        node.open(image)
        yield node
    finally:
        node.close()
        shutil.rmtree(directory, ignore_errors=True)
