# SPDX-License-Identifier: Apache-2.0
"""The etcd client with members that want certificates or passwords."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from etcd.client import (
    EtcdAuthError,
    EtcdError,
    EtcdUnavailableError,
)
from lab.etcd_server import EtcdServer
from tests.netns.etcd.running_client import STEP_TIMEOUT, client, run

MESH = {"username": "mesh", "password": "word"}


# -- TLS and login -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a directory."""

    directory: Path

    def issue(self, name: str, *alternatives: str) -> tuple[Path, Path]:
        """Certificate and key for a name and its alternatives (`IP:...`, `DNS:...`)."""
        cert, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", key, "-out", cert, "-days", "2", "-subj", f"/CN={name}"),
            *(("-CA", self.ca, "-CAkey", self.directory / "ca.key") if name != "ca" else ()),
            *("-addext", f"subjectAltName={','.join(alternatives) or 'DNS:' + name}"),
        )
        return cert, key

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path)
    authority.issue("ca")
    return authority


def secured(server: EtcdServer, authority: Authority) -> EtcdServer:
    """The same server with TLS, and a certificate of its own address only."""
    host = urlsplit(server.client_url).hostname
    cert, key = authority.issue(f"server-{server.name}", f"IP:{host}")
    mine, my_key = authority.issue("operator")
    return replace(
        server,
        client_url=server.client_url.replace("http:", "https:"),
        flags=(
            *server.flags,
            f"--cert-file={cert}",
            f"--key-file={key}",
            "--client-cert-auth",
            f"--trusted-ca-file={authority.ca}",
        ),
        client_flags=(f"--cacert={authority.ca}", f"--cert={mine}", f"--key={my_key}"),
    )


@pytest.fixture
def secure(etcd: EtcdServer, authority: Authority) -> Iterator[EtcdServer]:
    etcd.wipe()
    server = secured(etcd, authority)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_client_certificates(secure: EtcdServer, authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue("client")
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    stranger = Authority(strangers)
    stranger.issue("ca")
    wrong_cert, wrong_key = stranger.issue("client")

    async def story() -> None:
        async with client(secure, ca=authority.ca, cert=cert, key=key) as db:
            await db.put("/k", b"v")
            watch = db.watch("/", 1)
            async with contextlib.aclosing(watch):
                assert (await anext(watch)).events == ()
        for words, flags in {
            # a server whose authority we do not trust
            f"signed by no CA in --etcd-cafile {stranger.ca}": {
                "ca": stranger.ca,
                "cert": cert,
                "key": key,
            },
            # the server does not trust our authority
            f"it refused our certificate {wrong_cert}": {
                "ca": authority.ca,
                "cert": wrong_cert,
                "key": wrong_key,
            },
            "give --etcd-certfile and --etcd-keyfile": {"ca": authority.ca},
        }.items():
            async with client(secure, **flags) as db:
                with pytest.raises(EtcdError) as refusal:
                    await db.get("/k")
                assert "\n" not in str(refusal.value)
                assert words in str(refusal.value)

    run(story())


def test_failover_between_members_with_certificates_of_their_own(
    etcd_cluster: Callable[[int], list[EtcdServer]], authority: Authority
) -> None:
    plain = etcd_cluster(3)
    for member in plain:
        member.stop()
    members = [secured(member, authority) for member in plain]
    cert, key = authority.issue("client")

    async def story() -> None:
        async with client(*members, ca=authority.ca, cert=cert, key=key) as db:
            for stopped in members:
                await asyncio.to_thread(stopped.stop)
                async with asyncio.timeout(STEP_TIMEOUT):
                    while True:
                        with contextlib.suppress(EtcdError):
                            await db.put("/k", stopped.name.encode())
                            break
                await asyncio.to_thread(stopped.start)

    try:
        for member in members:
            member.start(wait=False)
        for member in members:
            member.wait()
        run(story())
    finally:
        for member in members:
            member.stop()


@pytest.fixture
def guarded(etcd: EtcdServer) -> Iterator[EtcdServer]:
    """An etcd with users: root, and mesh for our prefix; tokens live a second."""
    etcd.stop()
    server = replace(etcd, flags=(*etcd.flags, "--auth-token-ttl=1", "--bcrypt-cost=4"))
    server.start()
    server.ctl("user", "add", "root:secret")
    server.ctl("user", "grant-role", "root", "root")
    server.ctl("role", "add", "mesh")
    server.ctl("role", "grant-permission", "--prefix=true", "mesh", "readwrite", "/mesh/")
    server.ctl("user", "add", "mesh:word")
    server.ctl("user", "grant-role", "mesh", "mesh")
    server.ctl("auth", "enable")
    yield replace(server, client_flags=("--user=root:secret",))
    server.stop()


def test_login_again_and_again(guarded: EtcdServer) -> None:
    async def story() -> None:
        async with client(guarded, **MESH) as db:
            await db.put("/mesh/k", b"1")
            lease = await db.grant(60)
            logins = guarded.requests()["Authenticate"]
            for number in range(2):
                await asyncio.sleep(2.5)  # the token has expired: it is valid for one second
                await db.put_if(f"/mesh/{number}", b"", mod_revision=0, lease=lease)
                assert await db.keep_alive(lease) == 60
            await asyncio.sleep(2.5)
            watch = db.watch("/mesh/", 1)
            async with contextlib.aclosing(watch):
                assert (await anext(watch)).events == ()
                assert len((await anext(watch)).events) == 3
            assert guarded.requests()["Authenticate"] == logins + 3
            guarded.stop()  # a restarted etcd has forgotten its tokens
            guarded.start()
            async with asyncio.timeout(STEP_TIMEOUT):
                while True:
                    with contextlib.suppress(EtcdUnavailableError):
                        assert (await db.get("/mesh/k"))[0] is not None
                        break

    run(story())


def test_a_password_file_is_read_for_each_login(guarded: EtcdServer, tmp_path: Path) -> None:
    """The password is changed while the client runs: in etcd, then in the file."""
    file = tmp_path / "password"
    file.write_text("word\n")
    file.chmod(0o600)

    async def story() -> None:
        async with client(guarded, username="mesh", password_file=file) as db:
            await db.put("/mesh/k", b"1")
            guarded.ctl("user", "delete", "mesh")
            guarded.ctl("user", "add", "mesh:other")
            guarded.ctl("user", "grant-role", "mesh", "mesh")
            await asyncio.sleep(2.5)  # the token has expired
            with pytest.raises(EtcdAuthError):
                await db.get("/mesh/k")
            file.write_text("other\n")
            assert (await db.get("/mesh/k"))[0] is not None
            file.unlink()
            await asyncio.sleep(2.5)
            with pytest.raises(EtcdAuthError, match=r"--etcd-password-file .*: No such file"):
                await db.get("/mesh/k")

    run(story())


@pytest.mark.parametrize(
    ("username", "password", "part"),
    [
        ("mesh", "wrong", "authentication failed"),
        ("nobody", "word", "authentication failed"),
        (None, None, "it wants a user: give"),
    ],
)
def test_wrong_credentials_are_one_line(
    guarded: EtcdServer, username: str | None, password: str | None, part: str
) -> None:
    async def story() -> None:
        async with client(guarded, username=username, password=password) as db:
            for call in (db.get("/mesh/k"), db.list("/mesh/"), anext(db.watch("/mesh/", 1))):
                with pytest.raises(EtcdAuthError) as refusal:
                    await call
                assert "\n" not in str(refusal.value)
                assert "--etcd-username" in str(refusal.value)
                assert "--etcd-password-file" in str(refusal.value)
            with pytest.raises(EtcdAuthError, match=part):
                await db.get("/mesh/k")

    run(story())


def test_a_role_without_permission_is_one_line(guarded: EtcdServer) -> None:
    async def story() -> None:
        async with client(guarded, **MESH) as db:
            for call in (db.get("/other"), db.put("/other", b""), anext(db.watch("/other", 1))):
                with pytest.raises(EtcdAuthError, match="permission denied"):
                    await call

    run(story())


def test_credentials_are_accepted_where_none_are_needed(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd, **MESH) as db:
            await db.put("/k", b"")

    run(story())


def test_switching_authentication_on_under_a_running_daemon(guarded: EtcdServer) -> None:
    guarded.ctl("auth", "disable")

    async def story() -> None:
        async with client(guarded, **MESH) as db:
            await db.put("/mesh/k", b"")
            guarded.ctl("auth", "enable")
            await db.put("/mesh/k", b"")
            guarded.ctl("auth", "disable")
            await db.put("/mesh/k", b"")

    run(story())
