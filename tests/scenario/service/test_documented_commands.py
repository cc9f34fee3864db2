# SPDX-License-Identifier: Apache-2.0
"""What README and docs tell to type is typed: `sh` blocks, literally, on one host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from lab import processes
from lab.cluster import Lab
from lab.time_factor import scaled
from tests.scenario.service.conftest import Systemd
from tests.scenario.service.documented_blocks import REPOSITORY, RUN, Block, Run, blocks

BLOCK_TIMEOUT = 300.0  # seconds; pip fetches packages
INLINE = """
flatmesh lab exec h1-p1 ip route
flatmesh lab status
flatmesh lab down
"""
"""The README's other commands about its lab, in its text."""


def typed(systemd: Systemd, lab: Lab, block: Block, how: Run) -> str:
    text = block.text
    for placeholder, value in how.replaced:
        assert placeholder in text, (block, placeholder)
        text = text.replace(placeholder, value)
    network = processes.enter(lab.names.host(1)) if how.on_host else ()
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("FLATMESH", "PYTHON"))}
    done = subprocess.run(
        [*network, *systemd.enter, "sh", "-euc", f"cd {REPOSITORY}\n{text}"],
        env={**keep, "PIP_NO_COMPILE": "1", "PATH": f"/usr/local/bin:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=scaled(BLOCK_TIMEOUT),
    )
    output = done.stdout + done.stderr
    assert done.returncode == how.status, (block.key, output)
    for words in how.shows:
        assert words in output, (block.key, words, output)
    return output


@pytest.mark.timeout(900)
def test_the_documents_commands(
    make_lab: Callable[..., Lab], make_systemd: Callable[..., Systemd]
) -> None:
    lab = make_lab(hosts=1, pods_per_host=0)
    lab.stop_daemon(1)
    systemd = make_systemd(lab.names.host(1), own_files=True)
    there = {block.key: block for block in blocks()}
    for key, how in RUN.items():
        typed(systemd, lab, there[key], how)
    assert systemd.show("flatmeshd.service", "ActiveState") == "active"
    readme = (REPOSITORY / "README.md").read_text()
    for line in INLINE.split("\n"):
        assert line in readme
    output = typed(systemd, lab, Block("README.md", INLINE), Run(on_host=False))
    assert "default via 10.5." in output
    assert "is gone" in output
