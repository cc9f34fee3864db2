# SPDX-License-Identifier: Apache-2.0
"""Certificate files that are replaced while the client runs, and names in /etc/hosts."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from etcd.client import EtcdError
from lab import hosts, processes
from lab.etcd_server import EtcdServer
from tests.netns.conftest import MakeNetns
from tests.netns.etcd.running_client import client, run
from tests.netns.etcd.test_etcd_login import Authority, secured


def _authority(directory: Path) -> Authority:
    directory.mkdir()
    authority = Authority(directory)
    authority.issue("ca")
    return authority


def test_replaced_certificate_files_are_used_for_the_next_connection(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    """The whole authority is replaced, as when a CA runs out: ours, the server's, the CA's."""
    etcd.wipe()
    old, new = _authority(tmp_path / "old"), _authority(tmp_path / "new")
    files = {name: tmp_path / f"used.{name}" for name in ("ca", "cert", "key")}

    def install(authority: Authority) -> None:
        cert, key = authority.issue("client")
        for name, source in {"ca": authority.ca, "cert": cert, "key": key}.items():
            shutil.copyfile(source, files[name])

    install(old)
    server = secured(etcd, old)
    server.start()

    async def story() -> None:
        nonlocal server
        async with client(server, **files) as db:
            await db.put("/k", b"1")
            watch = db.watch("/", 1)
            async with contextlib.aclosing(watch):
                await anext(watch)
                server.stop()
                server = secured(etcd, new)
                server.start()
                with pytest.raises(EtcdError):  # the old files don't fit the new server
                    await db.get("/k")
                files["key"].unlink()  # replaced one after the other
                with pytest.raises(EtcdError):
                    await db.get("/k")
                install(new)
                found, revision = await db.get("/k")
                assert found is not None
                assert found.value == b"1"
                with pytest.raises(EtcdError):  # its connection ended with the old server
                    await anext(watch)
            lease = await db.grant(60)
            assert await db.keep_alive(lease) == 60
            again = db.watch("/", revision)
            async with contextlib.aclosing(again):
                await anext(again)
                await db.put("/k", b"2")
                batch = await anext(again)
                assert batch.events[0][0] == "/k"

    try:
        run(story())
    finally:
        server.stop()


def test_a_watch_alone_takes_up_replaced_certificate_files(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    """Nothing else calls etcd: a daemon only watches for hours."""
    etcd.wipe()
    old, new = _authority(tmp_path / "old"), _authority(tmp_path / "new")
    cert, key = old.issue("client")
    files = {"ca": old.ca, "cert": cert, "key": key}
    server = secured(etcd, old)
    server.start()

    async def story() -> None:
        nonlocal server
        async with client(server, **files) as db:
            watch = db.watch("/", 1)
            async with contextlib.aclosing(watch):
                await anext(watch)
                server.stop()
                cert, key = new.issue("client")
                for name, source in {"ca": new.ca, "cert": cert, "key": key}.items():
                    shutil.copyfile(source, files[name])
                server = secured(etcd, new)
                server.start()
                with pytest.raises(EtcdError):
                    await anext(watch)
            again = db.watch("/", 1)
            async with contextlib.aclosing(again):
                assert (await anext(again)).events == ()

    try:
        run(story())
    finally:
        server.stop()


def test_a_name_in_the_hosts_file_needs_no_name_server(
    etcd: EtcdServer, make_netns: MakeNetns, tmp_path: Path
) -> None:
    """The name servers are silent: packets to them are lost."""
    etcd.wipe()
    netns = make_netns()
    server = replace(etcd, netns=netns)
    address, port = server.client_url.removeprefix("http://").split(":")
    for command in (
        "link set lo up",
        "link add silent type veth peer name gone",
        "link set silent up",
        "link set gone up",
        "addr add 203.0.113.1/24 dev silent",
        "neigh add 203.0.113.53 lladdr 02:00:00:00:00:01 dev silent",
    ):
        hosts.ip("-n", netns, *command.split())
    server.start()
    (tmp_path / "hosts").write_text(f"{address} etcd.example.org\n")
    (tmp_path / "resolv.conf").write_text("nameserver 203.0.113.53\n")
    script = tmp_path / "client.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import asyncio
            from etcd.client import Etcd

            async def main():
                async with Etcd(["http://etcd.example.org:{port}"]) as db:
                    await db.put("/k", b"v")

            asyncio.run(main())
            """
        )
    )
    mounts = " && ".join(
        f"mount --bind {tmp_path}/{name} /etc/{name}" for name in ("hosts", "resolv.conf")
    )
    try:
        done = subprocess.run(
            [
                *processes.enter(netns),
                *("unshare", "--mount", "sh", "-c", f"{mounts} && exec {sys.executable} {script}"),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr
