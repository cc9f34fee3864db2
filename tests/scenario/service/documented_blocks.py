# SPDX-License-Identifier: Apache-2.0
"""The `sh` blocks of the documents: which are run by test_documented_commands.py, and which not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
FENCED = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of a document between ```sh and ```."""

    document: str
    text: str

    @property
    def key(self) -> tuple[str, str]:
        """The document and the beginning of the first line, up to what is quoted."""
        return self.document, re.split(r"\s+[#'\\]", self.text.splitlines()[0])[0]


@dataclass(frozen=True, slots=True)
class Run:
    """How a block is run."""

    on_host: bool
    """In the network of a lab's host, without the internet; else in this machine's, with it."""
    shows: tuple[str, ...] = ()
    """What it prints, among other things."""
    status: int = 0
    replaced: tuple[tuple[str, str], ...] = ()


ETCD = ("ETCD:2379", "192.168.64.1:2379")

RUN = {
    ("README.md", "deploy/install"): Run(
        on_host=False, shows=("==> installed flatmesh",), replaced=(ETCD,)
    ),
    ("README.md", "flatmesh config set"): Run(on_host=True, replaced=(ETCD,)),
    ("docs/troubleshooting.md", "flatmesh status"): Run(
        on_host=True,
        shows=("daemon: answers at", "192.168.64.11"),
        replaced=(
            ("journalctl -u flatmeshd", "systemctl status flatmeshd"),
            ("curl -s localhost:PORT/readyz", "test -e /run/flatmesh/ready"),
        ),
    ),
    ("docs/services.md", "flatmesh config set"): Run(on_host=True, shows=("web",)),
    ("docs/services/names.md", "flatmesh config set"): Run(on_host=True),
    ("README.md", "deploy/install --lab && flatmesh lab up"): Run(
        on_host=False, shows=("installed again", "flatmesh lab exec h1-p1 ip route")
    ),
}
"""In this order, on one host."""

IS_CI = "it is what runs this test"
RUNTIMES = "it changes this machine's packages and runtime; tests/spec/runtimes runs a namespace's"
DOCKER = "it needs a dockerd and an image; tests of the Docker plugin make the calls"
NOT_RUN = {
    (
        "docs/services/vip.md",
        "flatmesh vip set web --address 192.168.64.100 --host 192.168.64.11 --host 192.168.64.12",
    ): "needs several hosts: tests/scenario/services/vip",
    (
        "docs/docker.md",
        "echo FLATMESH_DOCKER_PLUGIN=/run/docker/plugins/flatmesh.sock >> /etc/default/flatmeshd",
    ): DOCKER,
    (
        "docs/docker.md",
        "docker network create --driver flatmesh --ipam-driver flatmesh --subnet 10.5.0.0/16 flat",
    ): DOCKER,
    ("docs/docker.md", "echo FLATMESH_DOCKER_BRIDGE=true >> /etc/default/flatmeshd"): DOCKER,
    ("docs/docker.md", "flatmesh docker-options --write"): DOCKER,
    (
        "docs/scheduler/README.md",
        (
            "flatmesh-scheduler run --manager --worker --address 192.168.64.11 "
            "--etcd-endpoints http://ETCD:2379"
        ),
    ): "tests/netns/scheduler runs managers, with addresses of their own",
    (
        "README.md",
        "export DOCKER_HOST=unix:///var/lib/flatmesh-lab/lab/h1/docker.sock",
    ): "tests/scenario/scheduler does all of it, in a lab of its own",
    (
        "docs/scheduler/api.md",
        "export DOCKER_HOST=unix:///run/flatmesh-scheduler/docker.sock",
    ): "tests/netns/scheduler/front does, with a socket of its own",
    (
        "docs/scheduler/README.md",
        "python -m bench.scheduler placement",
    ): "takes minutes; tests/netns/scheduler uses its parts",
    ("README.md", "tests/run"): IS_CI,
    ("CONTRIBUTING.md", "tests/run tests/unit -q"): IS_CI,
    ("CONTRIBUTING.md", "tests/run --kernel"): "takes half an hour; CI runs --kernel --short",
    (
        "CONTRIBUTING.md",
        ".venv/bin/flatmesh bench",
    ): "takes minutes; tests/unit/bench has its parts",
    (
        "docs/ovs-pipeline.md",
        "flatmesh lab up --backend ovs --tunnel gre --mesh flow",
    ): "test_pods_reach_each_other.py makes this lab, test_ovs_pipeline.py reads the flows",
    (
        "docs/quickstart/containerd.md",
        "apt-get install -y containerd containernetworking-plugins",
    ): RUNTIMES,
    ("docs/quickstart/containerd.md", "flatmesh config set"): "the README's, which is run",
    ("docs/quickstart/containerd.md", "systemctl enable --now flatmeshd"): RUNTIMES,
    (
        "docs/quickstart/podman.md",
        "apt-get install -y podman containernetworking-plugins",
    ): RUNTIMES,
    ("docs/quickstart/podman.md", "systemctl enable --now flatmeshd"): RUNTIMES,
    ("docs/quickstart/kubernetes.md", "flatmesh config set"): "the README's, which is run",
    ("docs/quickstart/ovs.md", "apt-get install -y openvswitch-switch"): (
        "test_pods_reach_each_other.py makes this lab"
    ),
    ("docs/quickstart/ovs.md", "flatmesh config set"): "tests/unit/ovs_mesh reads such configs",
    ("docs/upgrade.md", "cd NEW-CHECKOUT"): "test_install_over_older.py does it under traffic",
}


def blocks() -> list[Block]:
    """All of them, in the order of the documents."""
    documents = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    found = []
    for path in [*documents, *sorted((REPOSITORY / "docs").rglob("*.md"))]:
        for indent, text in FENCED.findall(path.read_text()):
            lines = [line.removeprefix(indent) for line in text.splitlines()]
            found.append(Block(str(path.relative_to(REPOSITORY)), "\n".join(lines)))
    return found
