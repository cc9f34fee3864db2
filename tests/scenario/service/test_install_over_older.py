# SPDX-License-Identifier: Apache-2.0
"""deploy/install over an older version, as an operator upgrades a host: pods run on."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.cluster import Lab
from tests.scenario.test_upgrade import OLD, REPOSITORY, addresses, no_loss

INSTALL_TIMEOUT = 240.0  # seconds; pip fetches packages
PYTHON = """#!/bin/sh
# called with: -m venv PREFIX
/usr/bin/python3 "$@" && echo {packages} >"$(echo "$3"/lib/python*/site-packages)/dependencies.pth"
"""


def install(source: Path, options: list[str], **environment: str) -> str:
    done = subprocess.run(
        [str(source / "deploy/install"), *options],
        env={**os.environ, "PIP_NO_COMPILE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A checkout of the version before."""
    known = ["git", "-C", str(REPOSITORY), "cat-file", "-e", f"{OLD}^{{commit}}"]
    if subprocess.run(known, capture_output=True, check=False).returncode:
        pytest.skip(f"this clone has no commit {OLD}, the version before")
    tree = tmp_path / "older"
    tree.mkdir()
    pack = ["git", "-C", str(REPOSITORY), "archive", OLD]
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
        subprocess.run(["tar", "-C", tree, "-xf", "-"], stdin=packing.stdout, check=True)
    return tree


@pytest.mark.timeout(600)
def test_the_installer_upgrades_a_host_under_traffic(
    make_lab: Callable[..., Lab],
    eventually: Callable[..., None],
    tmp_path: Path,
    older: Path,
) -> None:
    # what the old version needs comes from the tests' environment
    python = tmp_path / "python"
    python.write_text(PYTHON.format(packages=sysconfig.get_path("purelib")))
    python.chmod(0o755)
    places = ["--prefix", str(tmp_path / "opt"), "--bin", str(tmp_path / "bin")]
    scratch = ["--cni-bin", str(tmp_path / "cni")]
    install(older, [*places, *scratch], PIP_NO_DEPS="1", PYTHON=str(python))
    lab = make_lab(hosts=2, pods_per_host=1, python=str(tmp_path / "opt/bin/python"))
    before = {pod.name: addresses(pod) for pod in lab.pods}
    one, other = lab.pods

    with no_loss(one, other, eventually, 0) as flowing:
        flowing("with the old version")
        root = ["--root", str(tmp_path / "root")]
        said = install(REPOSITORY, [*places, "--cni-bin", str(lab.bin_dir), *root])
        last = said.splitlines()[-1]
        assert last.startswith("==> upgraded flatmesh, version 0.1.0 to flatmesh 0.1.0"), said
        flowing("with the new version installed and the old daemons running")
        for number in lab.host_numbers:
            lab.stop_daemon(number)
            lab.start_daemon(number)
            lab.wait_ready(number)
            flowing(f"with the new daemon on h{number}")
    assert {pod.name: addresses(pod) for pod in lab.pods} == before
    for number in lab.host_numbers:
        lab.add_pod(number, "new")
        lab.delete_pod(number, "p1")
    lab.add_pod(1, "last")
    assert [result for result in lab.matrix(4, timeout=30.0) if not result.good] == []
