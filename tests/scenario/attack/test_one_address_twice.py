# SPDX-License-Identifier: Apache-2.0
"""Two hosts with one PublicIP: the second one refuses to serve the first one's subnet."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from lab.cluster import Lab
from lab.hosts import host_ipv4

On = Callable[..., str]
Eventually = Callable[..., None]


def start_without_memory(lab: Lab, number: int, *flags: str) -> None:
    """Start a host's daemon as on a machine that was installed just now."""
    lab.stop_daemon(number)
    (lab.host_dir(number) / "var/lease.json").unlink(missing_ok=True)
    shutil.rmtree(lab.host_dir(number) / "run", ignore_errors=True)
    (lab.host_dir(number) / "run").mkdir()
    lab.start_daemon(number, *flags)


def test_the_second_host_refuses(make_lab: Callable[..., Lab], eventually: Eventually) -> None:
    lab = make_lab(hosts=2, pods_per_host=1)
    before = lab.subnet(1)
    start_without_memory(lab, 2, f"--public-ip={host_ipv4(1)}")
    words = f"under this host's address {host_ipv4(1)} is held by another host"
    eventually(lambda: words in lab.log(2), "the second one says so")
    assert not lab.ready(2)
    assert not (lab.host_dir(2) / "run/subnet.env").exists()
    assert lab.ready(1)
    lab.stop_daemon(1)
    lab.start_daemon(1)  # its own lease, as it remembers, needs no question
    lab.wait_ready(1)
    assert lab.subnet(1) == before
    start_without_memory(lab, 2)  # with the address that it has
    lab.wait_ready(2)
    assert lab.subnet(2) != before


def test_a_host_that_was_installed_anew_takes_its_lease_back(
    make_lab: Callable[..., Lab],
) -> None:
    lab = make_lab(hosts=1, pods_per_host=0)
    before = lab.subnet(1)
    start_without_memory(lab, 1)
    lab.wait_ready(1)
    assert lab.subnet(1) == before
