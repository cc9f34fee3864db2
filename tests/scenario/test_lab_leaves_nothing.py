# SPDX-License-Identifier: Apache-2.0
"""`lab down` leaves no namespace, process, link, mount or file, whatever happened before."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from lab import processes
from lab.cluster import Lab
from lab.files import lab_names
from lab.processes import NETNS_DIR
from lab.spec import LabSpec


def traces(name: str, directory: Path) -> list[str]:
    """Everything that a lab could have left, by its name."""
    found = [str(path) for path in NETNS_DIR.glob(f"fm-{name}-*")]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if name in line]
    found += [str(path) for path in directory.rglob("*") if name in str(path)]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if name in command or f"flatmesh-lab/{name}/".encode() in environment:
                found.append(f"process {entry.name}: {command}")
    return found


def up(name: str, directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *(sys.executable, "-I", "-m", "cli.main", "lab", "up", "--hosts=2", "--pods=1"),
            *(f"--name={name}", f"--dir={directory}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_down_leaves_nothing(tmp_path: Path) -> None:
    name = f"t{secrets.token_hex(4)}"
    made = up(name, tmp_path)
    output, _ = made.communicate(timeout=120)
    assert made.returncode == 0, output.decode()
    assert b"no NAT" in output
    assert traces(name, tmp_path)
    Lab.load(name, tmp_path).down()
    assert traces(name, tmp_path) == []


def test_down_after_kill_at_any_moment_leaves_nothing(tmp_path: Path) -> None:
    for delay in (0.8, 1.6, 2.4):  # seconds: among the hosts, the daemons, the pods
        name = f"t{secrets.token_hex(4)}"
        killed = up(name, tmp_path)
        time.sleep(delay)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        Lab(LabSpec(name), tmp_path).down()
        assert traces(name, tmp_path) == []


def test_up_cleans_up_after_a_dead_lab_of_its_name(tmp_path: Path) -> None:
    name = f"t{secrets.token_hex(4)}"
    killed = up(name, tmp_path)
    while not processes.in_namespaces([f"fm-{name}-net"]):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    again = up(name, tmp_path)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output.decode()
    assert b"cleaning up" in output
    Lab.load(name, tmp_path).down()
    assert traces(name, tmp_path) == []


def test_two_labs_run_side_by_side(tmp_path: Path) -> None:
    names = sorted(f"t{secrets.token_hex(4)}" for _ in range(2))
    made = [up(name, tmp_path) for name in names]
    for process in made:
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, output.decode()
    assert set(names) <= set(lab_names(tmp_path))
    for name in names:
        Lab.load(name, tmp_path).down()
        assert traces(name, tmp_path) == []
