# SPDX-License-Identifier: Apache-2.0
"""`flatmesh bench`: the short run, and a measurement between two hosts. Never the figures."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.suite.figures import FIGURES
from lab import hosts, processes
from lab.cluster import Lab
from lab.files import DIRECTORY

MakeLab = Callable[..., Lab]
PNG = b"\x89PNG\r\n\x1a\n"
TIMEOUT = 170.0  # seconds; 15 on an idle machine
FLATMESH = (sys.executable, "-I", "-m", "cli.main")
SERVED = "flatmesh-bench-"
AS_SSH = """#!/bin/sh
# as ssh does: the words after the host are joined by spaces, and a shell on the host splits them
host=$1; shift
exec {lab_exec} "$host" sh -c "$*"
"""


def namespaces(begin: str) -> list[str]:
    return [path.name for path in processes.NETNS_DIR.glob(f"{begin}*")]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FLATMESH, "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def figures(document: dict[str, Any]) -> dict[tuple[str, str], list[float | None]]:
    return {(one["figure"], one["subject"]): one["samples"] for one in document["results"]}


def test_a_quick_run_writes_json_and_chart_and_leaves_nothing(tmp_path: Path) -> None:
    name = f"b{secrets.token_hex(4)}"
    done = bench("--quick", "--only=vxlan", "--name", name, "--save", str(tmp_path))
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "bench.json").read_text())
    assert document["judged"] is False
    assert document["errors"] == []
    assert document["rounds"] == 1
    for key in ("version", "commit", "started", "seconds", "arguments", "machine", "programs"):
        assert key in document
    found = figures(document)
    for subject in ("raw underlay", "vxlan", "vxlan by hand"):
        for figure in [one.name for one in FIGURES[:5]]:
            (sample,) = found[figure, subject]
            assert sample is not None
            assert sample > 0
    for figure in ("add", "del"):
        assert len(found[figure, "flatmesh"]) == 1
    assert (tmp_path / "bench.svg").read_text().startswith("<svg")
    assert (tmp_path / "bench.png").read_bytes().startswith(PNG)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "round 1 of 1: TCP, 1 stream, vxlan" in done.stderr
    assert namespaces(f"fm-{name}") == []
    assert list(DIRECTORY.glob(f"{name}*")) == []


@pytest.mark.timeout(300)
def test_two_hosts_are_measured_through_a_remote_shell(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(hosts=2, pods_per_host=1)
    place = f"--name={lab.spec.name} --dir={lab.directory.parent}"
    command = " ".join(FLATMESH)
    shell = str(tmp_path / "shell")
    Path(shell).write_text(AS_SSH.format(lab_exec=f"{command} lab exec {place}"))
    Path(shell).chmod(0o755)
    killed = subprocess.Popen(
        [shell, "h2", f"{command} bench serve --calls 1 --listen --cni-bin={lab.bin_dir}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert killed.stdout is not None
    assert killed.stdout.readline()
    (left,) = namespaces(SERVED)
    os.kill(int(left.removeprefix(SERVED)), signal.SIGKILL)  # its pod and its address are left
    killed.communicate()
    done = bench(
        *("--quick", "--between=h1,h2", "--shell", shell, "--flatmesh", command),
        *("--serve-options", f"--cni-bin={lab.bin_dir}", "--save", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "bench.json").read_text())
    found = figures(document)
    assert {subject for figure, subject in found if figure == "tcp-1"} == {
        "raw underlay",
        "pod to pod",
    }
    assert all(None not in samples for samples in found.values())
    assert found["add", "on h1"]
    assert [end["underlay"] for end in document["ends"]] == ["192.168.64.11", "192.168.64.12"]
    assert document["arguments"]["between"] == "h1 and h2"

    refused = bench("--quick", "--between=h1,h9", "--shell", shell, "--flatmesh", command)
    assert refused.returncode == 1
    assert "h1" in refused.stderr.splitlines()[-1]
    assert namespaces(SERVED) == []
    for number in (1, 2):
        bridge = hosts.ip("-n", lab.names.host(number), "-br", "link", "show", "master", "kbr0")
        assert bridge.count("\n") == 1  # the lab's own pod
    assert lab.pods[0].name == "p1"


def test_a_second_run_of_a_name_is_refused(tmp_path: Path) -> None:
    name = f"b{secrets.token_hex(4)}"
    first = subprocess.Popen(
        [*FLATMESH, "bench", "--quick", "--name", name, "--only=vxlan"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert first.stderr is not None
        first.stderr.readline()  # it runs
        first.stderr.readline()
        second = bench("--quick", "--name", name, "--save", str(tmp_path))
        assert second.returncode == 1
        assert "another `flatmesh bench`" in second.stderr
    finally:
        first.terminate()
        first.communicate(timeout=TIMEOUT)
    assert first.returncode == 143
    assert namespaces(f"fm-{name}") == []
    assert list(DIRECTORY.glob(f"{name}*")) == []
