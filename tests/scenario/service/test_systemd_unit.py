# SPDX-License-Identifier: Apache-2.0
"""The systemd unit: how much it allows, and that the daemon works with no more."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.cluster import Lab

UNIT = Path(__file__).parents[3] / "deploy" / "flatmeshd.service"
EXPOSURE = 4.0
"""systemd-analyze(1), security: 10 is no restriction at all."""
On = Callable[..., str]
Eventually = Callable[..., None]


def setting(name: str) -> str:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    return unit["Service"][name]


def test_the_unit_exposes_little() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) < EXPOSURE


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    units = sorted(UNIT.parent.glob("*.service"))
    for unit in units:  # systemd-analyze looks for the executable, too
        text = unit.read_text().replace("/usr/local/bin/flatmeshd", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(tmp_path / unit.name for unit in units)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert len(units) > 1


@pytest.fixture
def confined(tmp_path: Path) -> Path:
    """A Python with the unit's capabilities and no way to more: setpriv(1) stands for systemd."""
    kept = [
        f"+{name.removeprefix('CAP_').lower()}" for name in setting("CapabilityBoundingSet").split()
    ]
    assert setting("NoNewPrivileges") == "yes"
    script = tmp_path / "python"
    script.write_text(
        f"#!/bin/sh\numask {setting('UMask')}\n"
        f"exec setpriv --no-new-privs --bounding-set=-all,{','.join(kept)} "
        f'{sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("backend", ["vxlan", "host-gw", "udp", "wireguard", "ovs"])
def test_the_daemon_needs_no_more(
    make_lab: Callable[..., Lab], on: On, eventually: Eventually, confined: Path, backend: str
) -> None:
    lab = make_lab(hosts=2, pods_per_host=1, backend={"Type": backend}, python=str(confined))
    pid = lab.daemon_pid(1)
    status = Path(f"/proc/{pid}/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    assert effective.bit_count() == len(setting("CapabilityBoundingSet").split())
    first, last = lab.pods
    ping = f"ping -c 1 -W 1 {last.addresses[0]}"
    eventually(lambda: "1 received" in on(first.netns, ping, check=False), "pods are reached")
    host = lab.names.host(1)
    on(host, "nft delete table inet flatmesh")
    on(host, "iptables -P FORWARD DROP")
    eventually(
        lambda: "table inet flatmesh" in on(host, "nft list tables"), "the table is repaired"
    )
    eventually(lambda: "1 received" in on(first.netns, ping, check=False), "pods are reached")
    lab.add_pod(1, "late")
    lab.stop_daemon(1)
    lab.start_daemon(1)  # finds what the first one left
    lab.wait_ready(1)
    errors = [line for line in lab.log(1).splitlines() if "level=error" in line]
    assert errors == []
