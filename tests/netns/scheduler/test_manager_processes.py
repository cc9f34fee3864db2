# SPDX-License-Identifier: Apache-2.0
"""`flatmesh-scheduler run --manager`, killed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from bench.scheduler.workers import SimulatedWorkers
from lab.etcd_server import EtcdServer
from scheduler.store.documents import Documents
from scheduler.store.view import ClusterView
from tests.netns.etcd.running_client import client, run
from tests.netns.scheduler.running_managers import KEYS, service_spec, until, watched


def start(etcd: EtcdServer, name: str, directory: Path) -> subprocess.Popen[bytes]:
    arguments = ["-m", "scheduler", "run", "--manager", "--node-id", name, "--prefix", "/s"]
    arguments += ["--etcd-endpoints", etcd.client_url, "--state-dir", str(directory / name)]
    arguments += ["--socket", str(directory / f"{name}.sock")]
    return subprocess.Popen([sys.executable, *arguments], cwd=Path(__file__).parents[3])


def _leads_but(view: ClusterView, gone: str) -> bool:
    return view.leader not in ("", gone)


def _run(workers: SimulatedWorkers, tasks: int) -> bool:
    return len(workers.running) == tasks


def test_leaders_and_managers_that_are_killed_or_stopped_are_replaced(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    managers = {name: start(etcd, name, tmp_path) for name in ("m1", "m2", "m3")}

    async def story() -> None:
        async with client(etcd) as user:
            documents = Documents(user, KEYS)
            async with (
                SimulatedWorkers(user, KEYS, ["n1", "n2"]) as workers,
                watched(user) as view,
            ):
                await documents.create_service(service_spec("web", 4))
                await until(lambda: len(workers.running) == 4, "4 tasks run")
                before = set(workers.running)
                for step, number in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
                    leader = view.leader
                    managers[leader].send_signal(number)
                    status = managers[leader].wait(60)
                    assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
                    started = asyncio.get_running_loop().time()
                    await until(partial(_leads_but, view, leader), "another leads")
                    assert asyncio.get_running_loop().time() - started < 20  # 5 where it is quiet
                    await documents.create_service(service_spec(f"more-{step}", 2))
                    await until(partial(_run, workers, 4 + 2 * step), "it works")
                assert before <= set(workers.running)
                assert not workers.stopped

    with contextlib.ExitStack() as stack:
        for process in managers.values():
            stack.callback(process.wait)
            stack.callback(process.kill)
        run(story())
