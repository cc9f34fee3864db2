# SPDX-License-Identifier: Apache-2.0
"""containerd and runc, through the interface that a kubelet uses (CRI v1 over gRPC)."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.spec.runtimes.runtime_host import RuntimeHost, WaitUntil

IMAGE = "docker.io/library/fm-busybox:1"
MISSING = [p for p in ("containerd", "runc", "ctr") if shutil.which(p) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
    pytest.mark.timeout(300),
]
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
  bin_dir = "{bin_dir}"
  conf_dir = "{net_d}"
"""


@pytest.fixture(scope="module")
def cri(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The interface's messages, compiled for the protobuf that is installed."""
    protoc = pytest.importorskip("grpc_tools.protoc")
    out = tmp_path_factory.mktemp("cri")
    source = Path(__file__).with_name("cri.proto")
    assert protoc.main(["protoc", f"-I{source.parent}", f"--python_out={out}", str(source)]) == 0
    sys.path.insert(0, str(out))
    try:
        return importlib.import_module("cri_pb2")
    finally:
        sys.path.remove(str(out))


class Cri:
    """One containerd, as a kubelet sees it."""

    def __init__(self, host: RuntimeHost, messages: Any, cgroup_parent: str) -> None:
        self.host, self.messages, self.cgroup_parent = host, messages, cgroup_parent
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: Any = None

    def start(self, image: Path, wait_until: WaitUntil) -> None:
        import grpc

        host = self.host
        host.conflist(
            "pods",
            {"type": "flatmesh"},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        )
        config = host.directory / "containerd.toml"
        config.write_text(
            CONFIG.format(directory=host.directory, bin_dir=host.bin_dir, net_d=host.net_d)
        )
        self.log = (host.directory / "containerd.log").open("wb")
        self.process = subprocess.Popen(
            [*host.enter, "containerd", "--config", str(config)],
            env=host.variables,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        socket = f"{host.directory}/cri.sock"
        wait_until(lambda: Path(socket).exists(), "containerd's socket", self.process)
        self.channel = grpc.insecure_channel(f"unix:{socket}")
        grpc.channel_ready_future(self.channel).result(60)
        host.run(
            "ctr",
            "-a",
            socket,
            "-n",
            "k8s.io",
            "images",
            "import",
            "--snapshotter",
            "native",
            str(image),
        )
        wait_until(
            lambda: any(
                IMAGE in i.repo_tags
                for i in self.call(
                    "ListImages", "Empty", "ListImagesResponse", service="ImageService"
                ).images
            ),
            "the image",
        )
        wait_until(self.network_ready, "NetworkReady")

    def stop(self) -> None:
        if self.channel is not None:
            self.channel.close()
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.log.close()

    def call(
        self, method: str, request: str, answer: str, service: str = "RuntimeService", **fields: Any
    ) -> Any:
        messages = self.messages
        rpc = self.channel.unary_unary(
            f"/runtime.v1.{service}/{method}",
            request_serializer=getattr(messages, request).SerializeToString,
            response_deserializer=getattr(messages, answer).FromString,
        )
        return rpc(getattr(messages, request)(**fields), timeout=120)

    def network_ready(self) -> bool:
        status = self.call("Status", "StatusRequest", "StatusResponse").status
        return all(c.status for c in status.conditions)

    def run_pod(self, name: str, **more: Any) -> tuple[str, str, str]:
        """A sandbox with one container in it; the ids of both and the pod's addresses."""
        config = self.messages.PodSandboxConfig(
            metadata={"name": name, "uid": str(uuid.uuid4()), "namespace": "default"},
            hostname=name,
            log_directory=str(self.host.directory / "logs"),
            linux={"cgroup_parent": self.cgroup_parent},
            **more,
        )
        pod = self.call(
            "RunPodSandbox", "RunPodSandboxRequest", "RunPodSandboxResponse", config=config
        ).pod_sandbox_id
        container = self.call(
            "CreateContainer",
            "CreateContainerRequest",
            "ContainerRequest",
            pod_sandbox_id=pod,
            config={"metadata": {"name": name}, "image": {"image": IMAGE}, "log_path": "log"},
            sandbox_config=config,
        ).container_id
        self.call("StartContainer", "ContainerRequest", "Empty", container_id=container)
        status = self.call(
            "PodSandboxStatus", "PodSandboxRequest", "PodSandboxStatusResponse", pod_sandbox_id=pod
        ).status
        return pod, container, status.network.ip

    def execute(self, container: str, *command: str) -> Any:
        return self.call(
            "ExecSync",
            "ExecSyncRequest",
            "ExecSyncResponse",
            container_id=container,
            cmd=command,
            timeout=60,
        )

    def remove_pod(self, pod: str) -> None:
        self.call("StopPodSandbox", "PodSandboxRequest", "Empty", pod_sandbox_id=pod)
        self.call("RemovePodSandbox", "PodSandboxRequest", "Empty", pod_sandbox_id=pod)


@pytest.fixture(scope="module")
def runtimes(
    runtime_hosts: list[RuntimeHost],
    cri: Any,
    image: Path,
    cgroup_parent: str,
    wait_until: WaitUntil,
) -> Iterator[list[Cri]]:
    made = [Cri(host, cri, cgroup_parent) for host in runtime_hosts]
    try:
        for one in made:
            one.start(image, wait_until)
        yield made
    finally:
        for one in made:
            one.stop()


def test_pods_on_two_hosts_talk_and_leave_nothing(runtimes: list[Cri]) -> None:
    one, other = runtimes
    pods = [runtime.run_pod(f"pod{number}") for number, runtime in enumerate(runtimes)]
    addresses = [address for _, _, address in pods]
    assert addresses[0].rsplit(".", 1)[0] != addresses[1].rsplit(".", 1)[0]
    for runtime, (_, container, _), target in zip(runtimes, pods, reversed(addresses), strict=True):
        done = runtime.execute(container, "/bin/busybox", "ping", "-c", "1", "-W", "20", target)
        assert done.exit_code == 0, done.stdout + done.stderr
    assert [len(runtime.host.records()) for runtime in runtimes] == [1, 1]
    for runtime, (pod, _, _) in zip(runtimes, pods, strict=True):
        runtime.remove_pod(pod)
    for runtime in (one, other):
        assert runtime.host.records() == []
        assert runtime.host.host_interfaces() == []


def test_the_second_del_of_containerd_has_no_netns(runtimes: list[Cri]) -> None:
    runtime = runtimes[0]
    pod, _, _ = runtime.run_pod("twice")
    runtime.remove_pod(pod)
    log = runtime.host.lab.log(runtime.host.number)
    mine = [line for line in log.splitlines() if pod in line and "flatmesh " in line]
    assert sum(" DEL " in line for line in mine) >= 2
    assert not [line for line in mine if "refused" in line]


def test_a_port_of_the_host_leads_into_the_pod(runtimes: list[Cri]) -> None:
    one, other = runtimes
    pod, container, _ = one.run_pod(
        "web", port_mappings=[{"container_port": 80, "host_port": 18081}]
    )
    one.execute(container, "/bin/sh", "-c", "echo hello | busybox nc -l -p 80 >/dev/null 2>&1 &")
    client, inside, _ = other.run_pod("client")
    target = "192.168.64.11"  # h1 of the lab
    done = other.execute(
        inside,
        "/bin/sh",
        "-c",
        f"for i in 1 2 3 4 5; do busybox nc -w 9 {target} 18081 </dev/null && break; sleep 1; done",
    )
    assert done.stdout == b"hello\n", done.stdout + done.stderr
    one.remove_pod(pod)
    other.remove_pod(client)
    assert one.host.records() == other.host.records() == []


def test_pods_come_and_go_without_the_daemon(runtimes: list[Cri]) -> None:
    runtime = runtimes[0]
    host = runtime.host
    host.lab.stop_daemon(host.number)
    try:
        pod, container, _ = runtime.run_pod("alone")
        gateway = host.lab.subnet(host.number).rpartition(".")[0] + ".1"
        assert runtime.execute(container, "/bin/ping", "-c", "1", "-W", "9", gateway).exit_code == 0
        runtime.remove_pod(pod)
        assert host.records() == []
        assert host.host_interfaces() == []
    finally:
        host.lab.start_daemon(host.number)
        host.lab.wait_ready(host.number)
