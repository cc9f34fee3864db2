# SPDX-License-Identifier: Apache-2.0
"""A controller and a lease source are each added by one module and one line in a table.

The real daemons of two hosts run on them, with no etcd: `tests.scenario.toys.daemon`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import processes
from lab.cluster import Lab
from lab.daemon import LabDaemon
from lab.hosts import host_ipv4

Eventually = Callable[..., None]
On = Callable[..., str]
MakeLab = Callable[..., Lab]
REPOSITORY = Path(__file__).parents[2]
SUBNETS = {1: "10.5.101.0/24", 2: "10.5.102.0/24"}
TOY = [sys.executable, "-m", "tests.scenario.toys.daemon"]


@dataclasses.dataclass(frozen=True, slots=True)
class ToyCluster:
    """Two hosts whose leases come from a directory."""

    lab: Lab
    leases: Path

    def environment(self, number: int) -> dict[str, str]:
        return {
            **self.lab.environment(number),
            "TOY_LEASES": str(self.leases),
            "PYTHONPATH": str(REPOSITORY),
        }

    def daemon(self, number: int) -> LabDaemon:
        return dataclasses.replace(
            self.lab.daemon(number), argv=tuple(TOY), environment=self.environment(number)
        )

    def run(self, number: int, *arguments: str) -> str:
        """Run the toy daemon to its end."""
        done = subprocess.run(
            [*processes.enter(self.lab.names.host(number)), *TOY, *arguments],
            env={**os.environ, **self.environment(number)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def toy_file(self, number: int) -> Path:
        return self.lab.host_dir(number) / "run/toy"

    def give(self, subnets: dict[str, str]) -> None:
        """Say which host has which subnet."""
        new = self.leases / "hosts.new"
        new.write_text(json.dumps(subnets))
        new.replace(self.leases / "hosts.json")

    def page(self, number: int, page: str) -> str:
        get = f"curl -s -m 10 http://127.0.0.1:9000/{page}"
        argv = [*processes.enter(self.lab.names.host(number)), *get.split()]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


@pytest.fixture
def toys(make_lab: MakeLab) -> ToyCluster:
    lab = make_lab(hosts=2, pods_per_host=0)
    for number in lab.host_numbers:
        lab.stop_daemon(number)
        cleanup = [*lab.daemon(number).argv, "--cleanup", "--force"]
        subprocess.run(
            [*processes.enter(lab.names.host(number)), *cleanup],
            env={**os.environ, **lab.environment(number)},
            check=True,
            capture_output=True,
        )
    lab.etcd.kill()
    leases = lab.directory / "leases"
    leases.mkdir()
    (leases / "config.json").write_text(json.dumps(lab.spec.cluster_config()))
    cluster = ToyCluster(lab, leases)
    cluster.give({str(host_ipv4(number)): subnet for number, subnet in SUBNETS.items()})
    for number in lab.host_numbers:
        cluster.daemon(number).start()
    for number in lab.host_numbers:
        cluster.daemon(number).wait_ready()
    return cluster


def test_pods_reach_each_other_with_leases_from_a_toy_source(
    toys: ToyCluster, on: On, eventually: Eventually
) -> None:
    lab = toys.lab
    assert [lab.subnet(number) for number in lab.host_numbers] == [*SUBNETS.values()]
    first, second = (lab.add_pod(number, "p1") for number in lab.host_numbers)
    eventually(
        lambda: "1 received" in on(first.netns, f"ping -c1 -W1 {second.addresses[0]}", check=False),
        "pods reach each other",
    )
    toys.give({str(host_ipv4(1)): SUBNETS[1]})
    host = lab.names.host(1)
    eventually(lambda: SUBNETS[2] not in on(host, "ip route"), "the route to host 2 is gone")


def test_a_toy_controller_is_applied_planned_measured_and_cleaned_up(
    toys: ToyCluster, eventually: Eventually
) -> None:
    file = toys.toy_file(1)
    keys = "".join(f"{subnet.replace('/', '-')}\n" for subnet in SUBNETS.values())
    eventually(lambda: file.exists() and file.read_text() == keys, "both leases are in the file")
    assert "flatmesh_toy_leases 2.0" in toys.page(1, "metrics").splitlines()
    assert toys.run(1, "--dry-run") == ""
    file.write_text("")
    assert toys.run(1, "--dry-run") == f"# write {file}\n"
    toys.daemon(1).stop()
    toys.run(1, "--cleanup")
    assert not file.exists()


def test_a_toy_controller_that_fails_says_so_and_stops_no_other(
    toys: ToyCluster, on: On, eventually: Eventually
) -> None:
    broken = toys.lab.host_dir(1) / "run/broken"
    broken.touch()
    toys.give({str(host_ipv4(1)): SUBNETS[1]})
    host = toys.lab.names.host(1)
    eventually(lambda: SUBNETS[2] not in on(host, "ip route"), "the overlay follows the leases")
    eventually(lambda: "the toy is broken" in toys.page(1, "readyz"), "/readyz says why")
    page = toys.page(1, "metrics").splitlines()
    assert 'flatmesh_controller_failing{controller="toy"} 1.0' in page
    assert 'flatmesh_controller_failing{controller="overlay"} 0.0' in page
    toys.lab.add_pod(1, "meanwhile")
    broken.unlink()
    eventually(lambda: toys.page(1, "readyz") == "ok\n", "it is tried again")
    assert toys.toy_file(1).read_text() == f"{SUBNETS[1].replace('/', '-')}\n"
