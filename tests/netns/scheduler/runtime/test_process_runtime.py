# SPDX-License-Identifier: Apache-2.0
"""Pods of the driver `process`, with the kernel's own namespaces, cgroups and mounts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from scheduler.runtime.errors import RuntimeCallError
from scheduler.runtime.process.cgroup import Cgroups
from scheduler.runtime.protocol import (
    ContainerState,
    Dns,
    ExecConfig,
    File,
    Limits,
    LogRotation,
    Mount,
)
from tests.netns.scheduler.runtime.process_node import (
    DEADLINE,
    PLUGINS,
    exited,
    install_network,
    new_runtime,
    output,
    pod,
    run,
    running,
    shell,
    until,
)

pytestmark = pytest.mark.skipif(
    not (PLUGINS / "ptp").exists(), reason="needs containernetworking-plugins"
)


@pytest.fixture
def node(tmp_path: Path, netns: str) -> Path:
    install_network(tmp_path, netns)
    return tmp_path


def go(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def test_a_container_sees_its_own_machine(node: Path) -> None:
    (node / "data").mkdir()
    (node / "data/file").write_text("from the node\n")
    script = """
        echo "pid $$ host $(hostname) user $(id -u):$(id -g) dir $PWD $GREETING"
        cat /run/secrets/key /greeting /data/file
        echo x 2>/dev/null > /data/file || echo read-only bind
        echo x 2>/dev/null > /usr/x || echo read-only root
        stat -f -c %T /cache; touch /cache/x && echo writable tmpfs
        mount -t tmpfs none /mnt 2>/dev/null || echo no mount
        cat /etc/resolv.conf; ls STATE | wc -l
        ip -o -4 addr show eth0 | grep -o '10.99.0.[0-9]*/24'
    """.replace("STATE", str(node / "state"))
    config = shell(
        script,
        env=("GREETING=hello",),
        user="65534:65534",
        workdir="/tmp",
        files=(
            File("/run/secrets/key", b"secret\n", uid=65534),
            File("/greeting", b"a config\n", mode=0o444),
        ),
        mounts=(
            Mount("bind", "/data", str(node / "data"), read_only=True),
            Mount("tmpfs", "/cache", size=1 << 20),
        ),
    )

    async def story() -> None:
        async with running(node) as runtime:
            dns = Dns(("10.0.0.1",), ("example",), ("ndots:2",))
            status = await run(runtime, pod("p1", config, hostname="box", dns=dns))
            assert status.addresses == ("10.99.0.2/24",)
            status = await until(runtime, "p1", exited)
            text = await output(runtime, "p1")
            assert status.containers[0].exit_code == 0, text
            lines = text.splitlines()
            assert lines[0].endswith("host box user 65534:65534 dir /tmp hello")
            for line in (
                *("secret", "a config", "from the node", "read-only bind", "read-only root"),
                *("tmpfs", "writable tmpfs", "no mount", "nameserver 10.0.0.1", "search example"),
                "10.99.0.2/24",
            ):
                assert line in lines, text
            assert "options ndots:2" in lines
            await runtime.remove("p1")
        assert not list((node / "run/pods").iterdir())
        assert not list((node / "state/cni").iterdir())

    go(story())
    assert str(node) not in Path("/proc/self/mountinfo").read_text()


def test_containers_of_a_pod_share_localhost_and_nothing_else(node: Path) -> None:
    code = (
        "import socket;s=socket.create_server(('127.0.0.1',80));print('up',flush=True);"
        "c,_=s.accept();c.sendall(b'answer');c.close();s.accept()"
    )
    server = shell(f'exec python3 -c "{code}"', name="server")
    ask = "import socket;print(socket.create_connection(('127.0.0.1',80)).recv(9).decode())"
    client = shell(
        f'until python3 -c "{ask}" 2>/dev/null; do sleep 0.1; done; ls /proc | grep -c "^[0-9]"',
        name="client",
    )

    async def story() -> None:
        async with running(node) as runtime:
            await run(runtime, pod("p1", server, client))
            await until(runtime, "p1", lambda s: s.containers[1].state is ContainerState.EXITED)
            answer, processes = (await output(runtime, "p1", "client")).split()
            assert answer == "answer"
            assert int(processes) <= 5  # of its own pid namespace
            stats = await runtime.stats("p1")
            assert [c.name for c in stats.containers] == ["server"]
            assert [i.name for i in stats.interfaces] == ["eth0"]
            if not Cgroups.found().missing():
                assert stats.containers[0].cpu_seconds > 0
                assert stats.containers[0].memory_bytes > 0

    go(story())


def test_an_image_is_a_directory_whose_changes_are_the_containers_own(node: Path) -> None:
    image = node / "state/images/web:1"
    (image / "bin").mkdir(parents=True)
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("needs busybox-static")
    (image / "bin/busybox").write_bytes(busybox.read_bytes())
    (image / "bin/busybox").chmod(0o755)
    (image / "bin/sh").symlink_to("busybox")
    text = "echo mine > /new; /bin/busybox cat /new; /bin/busybox ls /"

    async def story() -> None:
        async with running(node) as runtime:
            await run(runtime, pod("p1", shell(text, image=str(image))))
            await run(runtime, pod("p2", shell(text, image="web:1", read_only=True)))
            await until(runtime, "p1", exited)
            await until(runtime, "p2", exited)
            first, second = await output(runtime, "p1"), await output(runtime, "p2")
            assert first.splitlines()[0] == "mine"
            assert "work" not in first.split()
            assert "ead-only file system" in second

    go(story())
    assert not (image / "new").exists()


@pytest.mark.parametrize("init", [True, False])
def test_a_container_stops_by_its_signal_or_after_the_grace_period(node: Path, init: bool) -> None:
    polite = shell(
        "trap 'echo got it; exit 7' USR1; while :; do sleep 0.05; done",
        stop_signal="SIGUSR1",
        init=init,
    )
    deaf = shell("trap '' TERM; while :; do sleep 0.05; done", init=init)

    async def story() -> None:
        async with running(node) as runtime:
            await run(runtime, pod("p1", polite))
            await run(runtime, pod("p2", deaf))
            await asyncio.sleep(0.3)  # until the shells have set their traps
            begin = time.monotonic()
            await runtime.stop("p2", 1.0)
            await runtime.stop("p1", DEADLINE)
            status = await until(runtime, "p1", exited)
            assert status.containers[0].exit_code == 7
            assert await output(runtime, "p1") == "got it\n"
            status = await until(runtime, "p2", exited)
            assert status.containers[0].exit_code == 137
            assert time.monotonic() - begin >= 1.0

    go(story())


def test_why_a_command_does_not_start_is_told(node: Path) -> None:
    cases = {
        "p1": (shell("", command=("nonesuch",)), 127, '"nonesuch" is not in $PATH'),
        "p2": (shell("", image="/nonexistent"), 126, "no such directory on this node"),
        "p3": (shell("", user="nobody-here"), 126, "not in the image's /etc/passwd"),
        "p4": (shell("", mounts=(Mount("bind", "/x", "/nonexistent"),)), 126, "bind source path"),
        "p5": (shell("", command=()), 126, "no command"),
        "p6": (shell("", image="no-such"), 126, "no such directory on this node"),
    }

    async def story() -> None:
        async with running(node) as runtime:
            for name, (config, code, text) in cases.items():
                await run(runtime, pod(name, config))
                status = (await until(runtime, name, exited)).containers[0]
                assert (status.exit_code, text in status.error) == (code, True), status
            with pytest.raises(RuntimeCallError, match="no such capability"):
                await run(runtime, pod("p7", shell("", cap_add=("FLY",))))

    go(story())


def test_memory_that_is_too_little_is_told_as_oom(node: Path) -> None:
    if "memory" in Cgroups.found().missing():
        pytest.skip("no writable memory cgroup here")
    config = shell("exec python3 -c 'x = b\"x\" * (1 << 28)'", limits=Limits(memory=48 << 20))

    async def story() -> None:
        async with running(node) as runtime:
            await run(runtime, pod("p1", config))
            status = (await until(runtime, "p1", exited)).containers[0]
            assert (status.exit_code, status.oom_killed) == (137, True)

    go(story())


def test_exec_runs_beside_the_command(node: Path) -> None:
    async def story() -> None:
        async with running(node) as runtime:
            config = shell("exec sleep 1000", env=("A=1",), user="65534")
            await run(runtime, pod("p1", config))
            what = ExecConfig(
                ("sh", "-c", "cat; echo $A$B $(id -u) >&2; exit 3"), ("B=2",), stdin=True
            )
            process = await runtime.exec("p1", "main", what)
            await process.write(b"input")
            await process.write(b"")
            found: dict[str, bytes] = {}
            while piece := await process.read():
                found[piece[0]] = found.get(piece[0], b"") + piece[1]
            assert found == {"stdout": b"input", "stderr": b"12 65534\n"}
            assert await process.wait() == 3
            process = await runtime.exec("p1", "main", ExecConfig(("tty",), tty=True))
            assert await process.read() is not None
            assert await process.wait() in (0, 1)
            with pytest.raises(RuntimeCallError, match="not running"):
                await runtime.exec("p1", "other", what)

    go(story())


def test_output_is_followed_across_rotation(node: Path) -> None:
    config = shell(
        "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); done",
        log=LogRotation(max_bytes=1 << 20, max_files=2),
    )

    async def story() -> None:
        async with running(node) as runtime:
            await run(runtime, pod("p1", config))
            async with asyncio.timeout(DEADLINE):
                found = [x.data async for x in runtime.logs("p1", "main", follow=True)]
            assert found == [b"line %d\n" % n for n in range(400)]
            await runtime.remove("p1", keep_logs=True)
            assert (await output(runtime, "p1")).count("\n") == 400
            await runtime.collect_garbage([])
            assert await output(runtime, "p1") == ""

    go(story())


def test_pods_outlive_the_worker_and_how_they_ended_is_not_lost(node: Path) -> None:
    async def story() -> None:
        first = new_runtime(node, "fm-test-node")
        await first.open()
        await run(first, pod("p1", shell("exec sleep 1000")))
        await run(first, pod("p2", shell("sleep 0.5; exit 5")))
        before = await first.status("p1")
        await first.close()
        await asyncio.sleep(1)
        async with running(node) as runtime:
            assert await runtime.status("p1") == before
            assert (await until(runtime, "p2", exited)).containers[0].exit_code == 5
            await runtime.stop("p1", DEADLINE)
            assert (await until(runtime, "p1", exited)).containers[0].exit_code == 143

    go(story())


@pytest.mark.parametrize("away", [False, True])
def test_a_killed_supervisor_takes_its_containers_along(node: Path, away: bool) -> None:
    async def story() -> None:
        first = new_runtime(node, "fm-test-node")
        await first.open()
        status = await run(first, pod("p1", shell("sleep 1000 & setsid sleep 1000 & wait")))
        supervisor = first._pods["p1"].supervisor
        if away:
            await first.close()
        os.kill(supervisor, signal.SIGKILL)
        if not away:
            await until(first, "p1", exited)
            await first.close()
        async with running(node) as runtime:
            found = (await until(runtime, "p1", exited)).containers[0]
            assert (found.exit_code, "supervisor" in found.error) == (137, True)
            deadline = time.monotonic() + DEADLINE
            while os.path.exists(f"/proc/{status.containers[0].pid}"):  # noqa: ASYNC240, PTH110
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)

    go(story())


def test_a_stopped_supervisor_does_not_keep_a_pod_from_removal(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.runtime.process.driver.END_TIMEOUT", 0.5)

    async def story() -> None:
        async with running(node) as runtime:
            status = await run(runtime, pod("p1", shell("exec sleep 1000")))
            os.kill(runtime._pods["p1"].supervisor, signal.SIGSTOP)
            await runtime.remove("p1")
            pid = status.containers[0].pid
            assert not os.path.exists(f"/proc/{pid}/exe")  # noqa: ASYNC240, PTH110

    go(story())


def test_a_failed_add_leaves_nothing(node: Path) -> None:
    (node / "bin/ptp").write_text('#!/bin/sh\necho \'{"code": 11, "msg": "not now"}\'; exit 1\n')

    async def story() -> None:
        async with running(node) as runtime:
            with pytest.raises(RuntimeCallError, match="not now"):
                await runtime.create(pod("p1", shell("exit")))
            assert await runtime.list() == []
            # its DEL failed, too: the attachment is kept until one succeeds
            assert len(list((node / "state/cni").iterdir())) == 1
            (node / "bin/ptp").write_text("#!/bin/sh\n")
            await runtime.collect_garbage([])
            assert not list((node / "state/cni").iterdir())

    go(story())


def test_a_dead_spawner_is_started_again(node: Path) -> None:
    async def story() -> None:
        async with running(node) as runtime:
            process = runtime._spawner._process
            assert process is not None
            process.kill()
            await process.wait()
            status = await run(runtime, pod("p1", shell("exec sleep 1000")))
            assert status.running

    go(story())


def test_the_network_namespace_has_the_pods_veth_and_loses_it(node: Path, netns: str) -> None:
    def links() -> str:
        return subprocess.check_output(["ip", "-n", netns, "-br", "link"], text=True)

    async def story() -> None:
        async with running(node) as runtime:
            await run(runtime, pod("p1", shell("exec sleep 1000")))
            assert "veth" in links()
            await runtime.networks.check("p1")
            await runtime.remove("p1")
            assert "veth" not in links()

    go(story())
