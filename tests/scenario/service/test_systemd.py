# SPDX-License-Identifier: Apache-2.0
"""flatmeshd as a service of a real systemd, with the units that are shipped."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from lab.cluster import Lab
from tests.scenario.service.conftest import Systemd

DEPLOY = Path(__file__).parents[3] / "deploy"
SERVICE, WAIT = "flatmeshd.service", "flatmeshd-wait-ready.service"
Eventually = Callable[..., None]


def install(systemd: Systemd, lab: Lab) -> None:
    """The units as they are, with the paths and times of a test."""
    directory = lab.host_dir(1)
    environment = " ".join(f'"{k}={v}"' for k, v in lab.environment(1).items())
    (directory / "daemon.env").write_text(f"FLANNELD_ETCD_ENDPOINTS={lab.endpoint}\n")
    for name in (SERVICE, WAIT):
        (systemd.units / name).write_text((DEPLOY / name).read_text())
        (systemd.units / f"{name}.d").mkdir()
    (systemd.units / f"{SERVICE}.d/test.conf").write_text(
        "[Service]\nExecStart=\n"
        f"ExecStart={sys.executable} -m agent.main --iface=eth0\n"
        f"WorkingDirectory={DEPLOY.parent}\n"
        f"Environment={environment} PYTHONDONTWRITEBYTECODE=1\n"
        f"EnvironmentFile={directory}/daemon.env\n"
        "StandardOutput=append:" + str(directory / "flatmeshd.log") + "\n"
        f"StandardError=inherit\nPrivateTmp=no\nProtectHome=no\nReadWritePaths={lab.directory}\n"
        "TimeoutStartSec=15\nWatchdogSec=6\n"
    )
    (systemd.units / f"{WAIT}.d/test.conf").write_text(
        f"[Service]\nExecStart=\nExecStart=-timeout 4 systemctl start {SERVICE}\n"
    )
    (systemd.units / "containerd.service").write_text(
        f"[Unit]\nWants={WAIT}\n[Service]\nExecStart=sleep infinity\n"
    )
    systemd.ctl("daemon-reload", check=True)


def test_the_service_under_systemd(
    make_lab: Callable[..., Lab], make_systemd: Callable[..., Systemd], eventually: Eventually
) -> None:
    lab = make_lab(hosts=1, pods_per_host=0)
    lab.stop_daemon(1)
    systemd = make_systemd(lab.names.host(1))
    install(systemd, lab)

    def state() -> str:
        return systemd.show(SERVICE, "ActiveState")

    def status() -> str:
        return systemd.show(SERVICE, "StatusText")

    # etcd is away: the service waits, and a runtime waits no longer than for its time
    lab.etcd.kill()
    systemd.ctl("start", "containerd.service", check=True)
    assert state() == "activating"
    assert systemd.show("containerd.service", "ActiveState") == "active"
    eventually(lambda: status().startswith("waiting: etcd"), "it says for what it waits")
    pid = systemd.main_pid(SERVICE)
    assert pid

    # it is not ended for that, and is ready when etcd is there
    lab.start_etcd()
    systemd.ctl("start", SERVICE, check=True)
    assert state() == "active"
    assert (lab.host_dir(1) / "run/ready").exists()
    assert systemd.main_pid(SERVICE) == pid
    eventually(lambda: f"lease {lab.subnet(1)}" in status(), "the status has the lease")

    systemd.ctl("reload", SERVICE, check=True)
    eventually(lambda: "reloaded: TLS files" in lab.log(1), "it reloads")
    eventually(lambda: state() == "active", "the reload has ended")
    assert systemd.main_pid(SERVICE) == pid

    # a hung event loop gives no sign of life
    os.kill(pid, signal.SIGSTOP)
    eventually(
        lambda: systemd.main_pid(SERVICE) not in (0, pid), "it is started again", timeout=60.0
    )
    eventually(lambda: state() == "active", "it is ready again", timeout=30.0)
    systemd.ctl("stop", SERVICE, check=True)
    assert "stopping; packets flow on" in lab.log(1)
    assert not systemd.main_pid(SERVICE)
    assert "Traceback" not in lab.log(1)
