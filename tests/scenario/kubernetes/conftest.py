# SPDX-License-Identifier: Apache-2.0
"""A lab whose hosts are Nodes of a real API server: leases are annotations, no etcd is asked."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import processes
from lab.cluster import Lab
from lab.daemon import LabDaemon
from lab.hosts import UNDERLAY_IPV4
from tests.kubernetes.api_server import ApiServer
from tests.kubernetes.binaries import missing

MakeLab = Callable[..., Lab]


@dataclasses.dataclass(frozen=True, slots=True)
class KubeCluster:
    """Two hosts, h1 and h2; their Nodes have the same names."""

    lab: Lab
    server: ApiServer

    @property
    def net_conf(self) -> Path:
        """The cluster config, as the ConfigMap puts it into the daemons' pods."""
        return self.lab.directory / "net-conf.json"

    def configure(self, **backend: Any) -> None:
        """Change the ConfigMap."""
        new = self.net_conf.with_suffix(".new")
        new.write_text(json.dumps({"Network": "10.244.0.0/16", "Backend": backend}))
        new.replace(self.net_conf)

    def daemon(self, number: int) -> LabDaemon:
        """A host's daemon, as the DaemonSet runs it."""
        kubeconfig = self.server.kubeconfig(self.lab.directory / "kubeconfig")
        there = self.lab.daemon(number)
        argv = [one for one in there.argv if not one.startswith("--etcd")]
        flags = (
            "--kube-subnet-mgr",
            f"--kubeconfig-file={kubeconfig}",
            f"--net-config-path={self.net_conf}",
        )
        environment = {**there.environment, "NODE_NAME": f"h{number}"}
        return dataclasses.replace(there, argv=(*argv, *flags), environment=environment)

    def subnet(self, number: int) -> str:
        return f"10.244.{number}.0/24"


@pytest.fixture(scope="module")
def kube_cluster(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[KubeCluster]:
    """A module's tests share it, and each restores what it changes."""
    why = missing("kube-apiserver")
    if why:
        pytest.skip(why)
    from tests.scenario.conftest import running_lab

    directory = tmp_path_factory.mktemp("labs")
    # an Open vSwitch on each host, for the switch to the backend ovs
    backend = {"Type": "ovs", "Tunnel": "gre", "Mesh": "flow"}
    with running_lab(request.config, directory, hosts=2, pods_per_host=0, backend=backend) as lab:
        for number in lab.host_numbers:
            lab.stop_daemon(number)
            cleanup = [*lab.daemon(number).argv, "--cleanup", "--force"]
            subprocess.run(
                [*processes.enter(lab.names.host(number)), *cleanup],
                env={**os.environ, **lab.environment(number)},
                check=True,
                capture_output=True,
            )
        own = lab.directory / "kube"
        own.mkdir()
        server = ApiServer(own, f"{UNDERLAY_IPV4}.1", lab.endpoint, lab.names.underlay)
        server.start()
        try:
            cluster = KubeCluster(lab, server)
            cluster.configure(Type="vxlan")
            for number in lab.host_numbers:
                server.make_node(f"h{number}", cluster.subnet(number))
                cluster.daemon(number).start()
            for number in lab.host_numbers:
                cluster.daemon(number).wait_ready()
            yield cluster
        finally:
            server.stop()
