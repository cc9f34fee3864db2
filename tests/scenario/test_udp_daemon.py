# SPDX-License-Identifier: Apache-2.0
"""A cluster on the udp backend: data arrives unchanged, counters are exported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.udp_soak import CORRUPTION, counters, soak
from lab import processes
from lab.cluster import Lab
from lab.matrix import measure

MakeLab = Callable[..., Any]
LONG = bool(os.environ.get("FLATMESH_LONG"))
SOAK = 100 << 30 if LONG else 256 << 20  # bytes
REPOSITORY = Path(__file__).parents[2]
ROOMS = [init.parent.name for init in REPOSITORY.glob("*/__init__.py")]


@pytest.mark.timeout(3600 if LONG else 180)
def test_no_byte_is_changed_in_many_streams_both_ways(make_lab: MakeLab) -> None:
    lab = make_lab(hosts=2, pods_per_host=1, backend={"Type": "udp", "Queues": 2})
    ends = soak(lab, SOAK, streams=4)
    for sent, received in ends:
        assert sent is not None
        assert (sent.size, sent.digest) == (SOAK // 4, received and received.digest)
    counted = counters(lab)
    assert counted["rx_bytes"] > SOAK
    assert (
        counted["rx_packets"] > 3 * counted["rx_writes"]
    )  # the data came in super-packets, which this test is about
    assert [name for name in CORRUPTION if name in counted] == []


def test_the_daemon_exports_the_data_planes_counters(
    make_lab: MakeLab, scrape: Callable[[Lab, int], list[str]]
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1, backend={"Type": "udp"})
    pod, unleased = lab.pods[0], "10.5.0.254"  # hosts lease from 10.5.1.0/24 on
    ping = [*processes.enter(pod.netns), "ping", "-c1", "-W5", unleased]
    refused = subprocess.run(ping, capture_output=True, text=True, check=False)
    assert "Net Unreachable" in refused.stdout
    page = scrape(lab, 1)
    dropped = 'flatmesh_udp_dropped_packets_total{direction="tx",reason="no_peer"} 1.0'
    assert dropped in page
    assert "# HELP flatmesh_udp_icmp_sent_total ICMP errors sent to pods" in page


@pytest.fixture
def without_c_part(tmp_path: Path) -> Path:
    """A Python that has flatmesh as it is installed where nothing could be compiled."""
    tree = tmp_path / "installed"
    for room in ROOMS:
        shutil.copytree(
            REPOSITORY / room, tree / room, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "flatmesh.pth").write_text(f"{tree}\n{sysconfig.get_path('purelib')}\n")
    return venv / "bin/python"


def test_without_the_c_part_udp_says_why_it_is_off_and_vxlan_works(
    make_lab: MakeLab,
    without_c_part: Path,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[..., None],
) -> None:
    doctor = subprocess.run(
        [without_c_part, "-I", "-m", "cli.main", "doctor"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "backend udp: off: its C part was not compiled" in doctor.stdout
    assert "apt install gcc" in doctor.stdout
    monkeypatch.setattr(sys, "executable", str(without_c_part))
    lab = make_lab(hosts=2, pods_per_host=1, backend={"Type": "vxlan"})
    lab.configure(lab.spec.cluster_config() | {"Backend": {"Type": "udp"}})
    eventually(lambda: "backend udp" in lab.log(1), "the daemon says why")
    (line,) = (one for one in lab.log(1).splitlines() if "backend udp" in one)
    assert "its C part was not compiled when flatmesh was installed; install a C compiler" in line
    assert "Traceback" not in lab.log(1)
    assert lab.daemon_pid(1) is not None
    pods = lab.pod_endpoints(4)
    assert [result for result in measure(pods, pods, timeout=20.0) if not result.good] == []


def test_the_install_succeeds_where_nothing_can_be_compiled(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "setup.py", "-q", "build_ext"),
            *("--build-lib", tmp_path / "lib", "--build-temp", tmp_path / "temp"),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "CC": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "flannel.udp._plane" in done.stderr  # setuptools says that it was left out
    assert not list(tmp_path.rglob("*.so"))
