# SPDX-License-Identifier: Apache-2.0
"""A lab that can't come up, is interrupted, or has died says so at once, and how to go on."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import hosts, processes
from lab.cluster import Lab
from lab.files import lab_names
from lab.spec import LabSpec
from lab.time_factor import scaled

LAB = (
    *("env", "--default-signal=INT"),  # a shell's background job, as CI may be, ignores it
    *(sys.executable, "-I", "-m", "cli.main", "lab"),
)


@dataclass(frozen=True)
class Typed:
    """Runs `flatmesh lab` for one lab."""

    name: str
    directory: Path

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        argv = [*LAB, words[0], "--name", self.name, "--dir", str(self.directory), *words[1:]]
        environ = {**os.environ, **environment}
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, env=environ)

    def run(self, *words: str, **environment: str) -> tuple[int, str, str]:
        program = self.start(*words, **environment)
        out, err = program.communicate(timeout=scaled(60))
        return program.returncode, out, err


@pytest.fixture
def typed(tmp_path: Path) -> Iterator[Typed]:
    name = f"t-{secrets.token_hex(4)}"
    yield Typed(name, tmp_path)
    Lab(LabSpec(name), tmp_path).down()


def test_up_ends_when_a_daemon_has_ended_with_its_words(typed: Typed) -> None:
    started = time.monotonic()
    status, out, err = typed.run("up", "--hosts=1", "--pods=0", FLATMESH_LOG_LEVEL="loud")
    assert status == 1
    (line,) = err.splitlines()
    assert line.startswith("flatmesh: flatmeshd on h1 has ended: ")
    assert "'loud'" in line
    assert "flatmeshd on each host" in out
    assert time.monotonic() - started < scaled(25)  # not the 30 s that a daemon may take
    status, _, err = typed.run("status")
    assert (status, "is not made to the end" in err) == (1, True)
    assert f"flatmesh lab down --name {typed.name}" in err


def test_a_lab_is_not_concerned_by_this_machines_own_settings(typed: Typed) -> None:
    status, _, err = typed.run("up", "--hosts=1", "--pods=1", FLANNELD_PUBLIC_IP="banana")
    assert (status, err) == (0, "")
    assert typed.run("down")[0] == 0


def test_an_interrupted_lab_says_what_is_left_and_how_it_goes(typed: Typed) -> None:
    program = typed.start("up", "--hosts=4")
    assert program.stdout is not None
    while "etcd" not in (line := program.stdout.readline()):
        assert line, program.communicate()
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=scaled(60))
    assert program.returncode == 130
    assert "interrupted; what was made stays; remove it with: flatmesh lab down --name" in err
    assert "Traceback" not in err
    assert typed.name in lab_names(typed.directory)
    assert typed.run("down")[0] == 0
    assert typed.name not in lab_names(typed.directory)


def test_a_dead_lab_says_so(typed: Typed) -> None:
    lab = Lab(LabSpec(typed.name, hosts=1, pods_per_host=1), typed.directory)
    lab.up()
    lab.etcd.kill()
    status, out, _ = typed.run("status")
    assert (status, "etcd is not running" in out) == (1, True)
    there = lab.names.present()
    processes.stop(processes.in_namespaces(there))
    for netns in there:  # as a restart of the machine does
        hosts.remove(netns)
    for command in (("status",), ("exec", "h1", "true")):
        status, _, err = typed.run(*command)
        assert (status, len(err.splitlines())) == (1, 1)
        assert f"lab '{typed.name}' is dead: network namespaces of it are gone" in err
        assert err.endswith(f"flatmesh lab down --name {typed.name}\n")


def test_labs_whose_names_begin_alike_are_two(typed: Typed) -> None:
    short = Lab(LabSpec(typed.name.replace("t-", "t"), hosts=1, pods_per_host=0), typed.directory)
    longer = Lab(LabSpec(f"{short.spec.name}-b", hosts=1, pods_per_host=0), typed.directory)
    try:
        short.up()
        longer.up()
        assert {short.spec.name, longer.spec.name} <= set(lab_names(typed.directory))
        short.down()
        assert longer.ready(1)
        assert lab_names(typed.directory).count(longer.spec.name) == 1
    finally:
        short.down()
        longer.down()
