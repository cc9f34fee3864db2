# SPDX-License-Identifier: Apache-2.0
"""`--listen`: the docker client by TCP, with a certificate of the CA; without one it is refused."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from lab.etcd_server import EtcdServer
from tests.netns.etcd.running_client import run
from tests.netns.scheduler.front.docker_client import DOCKER, DockerClient, manager_process

pytestmark = pytest.mark.skipif(not DOCKER.exists(), reason="needs docker.io")


def _authority(directory: Path, name: str) -> None:
    """A CA with a certificate that it signed: NAME-ca.pem, NAME.pem and NAME-key.pem."""
    new = "openssl", "req", "-newkey", "rsa:2048", "-nodes"
    files = ["-keyout", f"{name}-ca-key.pem", "-out", f"{name}-ca.pem"]
    made: list[list[str]] = [
        [*new, "-x509", "-subj", f"/CN={name}-ca", *files],
        [*new, "-subj", "/CN=host", "-keyout", f"{name}-key.pem", "-out", f"{name}.csr"],
        [
            *("openssl", "x509", "-req", "-in", f"{name}.csr", "-CA", f"{name}-ca.pem"),
            *("-CAkey", f"{name}-ca-key.pem", "-CAcreateserial", "-out", f"{name}.pem"),
            *("-extfile", "names.ext"),
        ],
    ]
    (directory / "names.ext").write_text("subjectAltName=IP:127.0.0.1\n")
    for command in made:
        subprocess.run(command, cwd=directory, check=True, capture_output=True)


def test_only_clients_with_a_certificate_are_served(etcd: EtcdServer, tmp_path: Path) -> None:
    for name in ("ours", "other"):
        _authority(tmp_path, name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def client(name: str) -> DockerClient:
        options = [f"--tlscacert={tmp_path}/ours-ca.pem", f"--tlscert={tmp_path}/{name}.pem"]
        options += [f"--tlskey={tmp_path}/{name}-key.pem", "--tlsverify"]
        return DockerClient(tmp_path / "m1.sock", ("-H", f"tcp://127.0.0.1:{port}", *options))

    async def story() -> None:
        flags = ["--listen", f"127.0.0.1:{port}", "--tls-ca", str(tmp_path / "ours-ca.pem")]
        flags += ["--tls-cert", str(tmp_path / "ours.pem")]
        flags += ["--tls-key", str(tmp_path / "ours-key.pem")]
        async with manager_process(etcd, tmp_path, flags=flags) as local:
            await local("info")
            assert await client("ours")("version", "--format", "{{.Server.APIVersion}}") == "1.41"
            await client("other")("service", "ls", fails=True)
            plain = DockerClient(tmp_path / "m1.sock", ("-H", f"tcp://127.0.0.1:{port}"))
            await plain("service", "ls", fails=True)

    run(story())
