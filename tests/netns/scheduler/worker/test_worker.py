# SPDX-License-Identifier: Apache-2.0
"""The worker: tasks that etcd assigns become processes, and what became of them is in etcd."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import urllib.request
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from lab.etcd_server import EtcdServer
from scheduler.errors import NotFoundError, SchedulerError
from scheduler.model.node import NodeReport
from scheduler.model.objects import DataSpec, StoredData
from scheduler.model.service import ServiceSpec
from scheduler.model.task import Task, TaskState
from scheduler.runtime.protocol import ExecConfig
from scheduler.store import codec
from scheduler.store.documents import Documents
from scheduler.worker.api.client import WorkerClient
from scheduler.worker.api.contact import WorkerContact, find_worker
from tests.conftest import loopback
from tests.netns.scheduler.runtime.process_node import DEADLINE, PLUGINS, install_network
from tests.netns.scheduler.worker.worker_node import (
    KEYS,
    NODE,
    WorkerNode,
    alive,
    shell_spec,
    worker_node,
)

pytestmark = pytest.mark.skipif(
    not (PLUGINS / "ptp").exists(), reason="needs containernetworking-plugins"
)
FOREVER = shell_spec("exec sleep 1000000")


@pytest.fixture
def directory(tmp_path: Path, netns: str) -> Path:
    install_network(tmp_path, netns)
    return tmp_path


def go(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


async def output(worker: WorkerNode, name: str) -> str:
    async with asyncio.timeout(DEADLINE):
        while True:  # a worker that was restarted tells its new port soon
            try:
                async with WorkerClient(await find_worker(worker.db, KEYS, NODE)) as api:
                    return b"".join([line.data async for line in api.logs(name)]).decode()
            except SchedulerError:
                await asyncio.sleep(0.1)


def test_tasks_run_and_their_ends_are_told(directory: Path, etcd: EtcdServer) -> None:
    async def story() -> None:
        async with worker_node(directory, etcd, "--label", "disk=ssd") as worker:
            await worker.assign("ends", shell_spec("echo done"))
            await worker.assign("fails", shell_spec("exit 3"))
            await worker.assign("stays", FOREVER)
            await worker.assign("bad", shell_spec("", Sysctls={"a": "b"}))
            status = await worker.reaches("ends", TaskState.COMPLETE)
            assert status.exit_code == 0
            assert await output(worker, "ends") == "done\n"
            status = await worker.reaches("fails", TaskState.FAILED)
            assert (status.exit_code, status.err) == (3, "task: non-zero exit (3)")
            status = await worker.reaches("bad", TaskState.REJECTED)
            assert "Sysctls is not supported" in status.err
            status = await worker.reaches("stays", TaskState.RUNNING)
            assert status.addresses[0].startswith("10.99.0.")
            assert alive(status.pid)
            await worker.desire("stays", TaskState.SHUTDOWN)
            stopped = await worker.reaches("stays", TaskState.SHUTDOWN)
            assert stopped.exit_code == 143
            assert not alive(status.pid)
            found, _ = await worker.db.get(KEYS.node_status(NODE))
            assert found is not None
            report = codec.decode(NodeReport, found.value)
            assert found.lease
            assert report.labels == {"disk": "ssd"}
            assert report.description.hostname == "box"
            assert report.description.resources.memory_bytes > 1 << 20
            assert (await worker.db.get(KEYS.node(NODE)))[0] is not None
            await worker.forget("ends")
            async with asyncio.timeout(DEADLINE):
                while (directory / "state/logs/ends").exists():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    go(story())


def test_a_task_of_a_service_gets_secrets_configs_and_names(
    directory: Path, etcd: EtcdServer
) -> None:
    async def story() -> None:
        async with worker_node(directory, etcd) as worker:
            text = base64.b64encode(b"hidden").decode()
            for kind, object_id in (("secrets", "s1"), ("configs", "c1")):
                stored = StoredData(id=object_id, spec=DataSpec(name="x", data=text))
                await worker.db.put(KEYS.object(kind, object_id), codec.encode(stored))
            container = shell_spec(
                "cat /run/secrets/key /etc-key; echo; echo $WHO; hostname",
                Env=["WHO={{.Service.Name}} {{.Task.Slot}} {{.Node.Hostname}}"],
                Hostname="h{{.Task.Slot}}",
                Secrets=[{"File": {"Name": "key"}, "SecretID": "s1", "SecretName": "x"}],
                Configs=[{"File": {"Name": "/etc-key"}, "ConfigID": "c1", "ConfigName": "x"}],
            )
            spec = ServiceSpec.model_validate({"Name": "web", "TaskTemplate": container})
            service = await Documents(worker.db, KEYS).create_service(spec)
            await worker.put(Task("t1", service.id, 4, 1, NODE))
            await worker.reaches("t1", TaskState.COMPLETE)
            assert await output(worker, "t1") == "hiddenhidden\nweb 4 box\nh4\n"

    go(story())


def test_a_task_with_several_containers_ends_with_the_first(
    directory: Path, etcd: EtcdServer
) -> None:
    sidecar = {"Name": "side", "Image": "host", "Command": ["sleep", "1000000"]}

    async def story() -> None:
        async with worker_node(directory, etcd) as worker:
            await worker.assign("pod", {**shell_spec("sleep 0.3; exit 2"), "Sidecars": [sidecar]})
            assert (await worker.reaches("pod", TaskState.FAILED)).exit_code == 2
            broken = {**sidecar, "Command": ["sh", "-c", "exit 9"]}
            await worker.assign("two", {**FOREVER, "Sidecars": [broken]})
            status = await worker.reaches("two", TaskState.FAILED)
            assert "(9) of container side" in status.err

    go(story())


def test_health_decides_when_a_task_serves(directory: Path, etcd: EtcdServer) -> None:
    def checked(command: str, *test: str) -> dict[str, Any]:
        second = 1_000_000_000
        health = {"Test": list(test), "Interval": second // 5, "Retries": 2, "Timeout": 5 * second}
        return shell_spec(command, Healthcheck=health)

    async def story() -> None:
        async with worker_node(directory, etcd) as worker:
            ready = "sleep 1; touch /tmp/ready; sleep 1; rm /tmp/ready; exec sleep 100000"
            await worker.assign("t1", checked(ready, "CMD-SHELL", "test -e /tmp/ready || echo no"))
            await worker.assign("t2", checked(ready, "CMD", "test", "-e", "/tmp/ready"))
            await worker.assign("t4", checked("exec sleep 10000", "HTTP", "no port"))
            assert (await worker.reaches("t1", TaskState.RUNNING)).health == "healthy"
            status = await worker.reaches("t2", TaskState.FAILED)
            assert (status.health, "unhealthy container" in status.err) == ("unhealthy", True)
            assert "is no port" in (await worker.reaches("t4", TaskState.REJECTED)).err

    go(story())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_tasks_outlive_their_worker(directory: Path, etcd: EtcdServer, how: signal.Signals) -> None:
    async def story() -> None:
        async with worker_node(directory, etcd) as worker:
            await worker.assign("stays", FOREVER)
            await worker.assign("ends", shell_spec("sleep 2; echo last words; exit 4"))
            await worker.assign("gone", FOREVER)
            await worker.assign("stops", FOREVER)
            pids = {
                name: (await worker.reaches(name, TaskState.RUNNING)).pid
                for name in ("stays", "ends", "gone", "stops")
            }
            worker.send(how)
            await worker.forget("gone")
            await worker.desire("stops", TaskState.SHUTDOWN)
            async with asyncio.timeout(DEADLINE):
                while alive(pids["ends"]):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert alive(pids["gone"])
            worker.start()
            status = await worker.reaches("ends", TaskState.FAILED)
            assert status.exit_code == 4
            assert await output(worker, "ends") == "last words\n"
            await worker.reaches("stops", TaskState.SHUTDOWN)
            async with asyncio.timeout(DEADLINE):
                while alive(pids["gone"]):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            status = await worker.reaches("stays", TaskState.RUNNING)
            assert status.pid == pids["stays"]
            assert alive(status.pid)
            assert await worker.status("gone") is None

    go(story())


def test_after_a_restart_of_the_machine_its_tasks_have_failed(
    directory: Path, etcd: EtcdServer
) -> None:
    async def story() -> None:
        async with worker_node(directory, etcd) as worker:
            await worker.assign("lost", FOREVER)
            pid = (await worker.reaches("lost", TaskState.RUNNING)).pid
            worker.send(signal.SIGKILL)
            for file in (directory / "run").glob("*/pods/lost/status.json"):
                os.kill(json.loads(file.read_text())["pid"], signal.SIGKILL)
            async with asyncio.timeout(DEADLINE):
                while alive(pid):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            shutil.rmtree(directory / "run")  # /run is empty after a start
            worker.start()
            status = await worker.reaches("lost", TaskState.FAILED)
            assert "the node was restarted" in status.err

    go(story())


def test_everything_goes_on_while_etcd_is_away(directory: Path, etcd: EtcdServer) -> None:
    async def story() -> None:
        async with worker_node(directory, etcd) as worker:
            await worker.assign("stays", FOREVER)
            await worker.assign("ends", shell_spec("sleep 2; exit 4"))
            pids = [(await worker.reaches(n, TaskState.RUNNING)).pid for n in ("stays", "ends")]
            etcd.stop()
            worker.send(signal.SIGTERM)
            worker.start()  # and it starts without etcd
            async with asyncio.timeout(DEADLINE):
                while alive(pids[1]):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await asyncio.sleep(1)
            assert alive(pids[0])
            etcd.start()
            assert (await worker.reaches("ends", TaskState.FAILED)).exit_code == 4
            assert (await worker.reaches("stays", TaskState.RUNNING)).pid == pids[0]
            assert worker.log().count("Traceback") == 0

    go(story())


def test_a_silent_worker_is_told_apart_and_stops_what_moved(
    directory: Path, etcd: EtcdServer
) -> None:
    async def story() -> None:
        async with worker_node(directory, etcd) as worker:
            await worker.assign("moved", FOREVER)
            pid = (await worker.reaches("moved", TaskState.RUNNING)).pid
            worker.send(signal.SIGSTOP)
            loop = asyncio.get_running_loop()
            begin = loop.time()
            async with asyncio.timeout(DEADLINE):
                while (await worker.db.get(KEYS.node_status(NODE)))[0] is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            assert loop.time() - begin > 1
            await worker.forget("moved")  # it runs elsewhere now
            assert alive(pid)
            worker.send(signal.SIGCONT)
            async with asyncio.timeout(DEADLINE):
                while alive(pid):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                while (await worker.db.get(KEYS.node_status(NODE)))[0] is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert await worker.status("moved") is None

    go(story())


def test_output_can_be_followed_before_the_task_has_started(
    directory: Path, etcd: EtcdServer
) -> None:
    async def story() -> None:
        async with worker_node(directory, etcd) as worker:
            await worker.assign("first", shell_spec("exit"))
            await worker.reaches("first", TaskState.COMPLETE)
            contact = await find_worker(worker.db, KEYS, NODE)
            (directory / "bin/ptp").rename(directory / "bin/other")
            slow = f"#!/bin/sh\nsleep 1\nexec {directory}/bin/other\n"
            (directory / "bin/ptp").write_text(slow)
            (directory / "bin/ptp").chmod(0o755)
            await worker.assign("t1", shell_spec("echo one; sleep 1; echo two"))
            async with WorkerClient(contact) as api, asyncio.timeout(DEADLINE):
                while True:  # until the worker has heard of it
                    try:
                        lines = [line.data async for line in api.logs("t1", follow=True)]
                        break
                    except NotFoundError:
                        await asyncio.sleep(0.01)
            assert lines == [b"one\n", b"two\n"]

    go(story())


def test_managers_read_output_figures_and_run_commands(directory: Path, etcd: EtcdServer) -> None:
    async def story() -> None:
        address = loopback()
        options = ("--metrics-listen", f"{address}:9000")
        async with worker_node(directory, etcd, *options) as worker:
            await worker.assign("t1", shell_spec("echo out; echo err >&2; exec sleep 100000"))
            await worker.reaches("t1", TaskState.RUNNING)
            async with asyncio.timeout(DEADLINE):
                while await output(worker, "t1") != "out\nerr\n":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            contact = await find_worker(worker.db, KEYS, NODE)
            async with WorkerClient(contact) as api:
                lines = [line async for line in api.logs("t1", tail=1)]
                assert len(lines) == 1
                stats = await api.stats("t1")
                assert [i.name for i in stats.interfaces] == ["eth0"]
                process = await api.exec("t1", ExecConfig(("sh", "-c", "cat; exit 5"), stdin=True))
                await process.write(b"hello")
                await process.write(b"")
                assert await process.read() == ("stdout", b"hello")
                assert await process.read() is None
                assert await process.wait() == 5
                with pytest.raises(NotFoundError):
                    await api.stats("other")
                with pytest.raises(SchedulerError):
                    await (await api.exec("t1", ExecConfig(("true",)), "other")).read()
                async with api._call("GET", "/metrics") as answer:
                    page = await answer.text()
                assert 'flatmesh_scheduler_tasks{state="running"} 1.0' in page
                assert "flatmesh_scheduler_task_rx_bytes_total{" in page
                url = f"http://{address}:9000/metrics"
                with await asyncio.to_thread(urllib.request.urlopen, url, timeout=60) as open_page:
                    assert 'state="running"' in open_page.read().decode()
                await api.kill("t1", "SIGKILL")
            assert (await worker.reaches("t1", TaskState.FAILED)).exit_code == 137
            wrong = WorkerContact(contact.url, "guess", contact.fingerprint)
            async with WorkerClient(wrong) as api:
                with pytest.raises(SchedulerError, match="token"):
                    await api.stats("t1")
            other = WorkerContact(contact.url, contact.token, "00" * 32)
            async with WorkerClient(other) as api:
                with pytest.raises(SchedulerError):
                    await api.stats("t1")

    go(story())
