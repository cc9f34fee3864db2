"""The etcd client with real members: failover, deadlines, lost answers, TLS, login."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from etcd.client import (
    CompactedError,
    Etcd,
    EtcdAuthError,
    EtcdError,
    EtcdUnavailableError,
    NewKey,
)
from lab.etcd_server import EtcdServer

PATIENCE = 60.0  # seconds
MESH = {"username": "mesh", "password": "word"}


def tell(story: Awaitable[None]) -> None:
    async def run() -> None:
        async with asyncio.timeout(4 * PATIENCE):
            await story

    asyncio.run(run())


@contextlib.asynccontextmanager
async def client(*servers: EtcdServer, **flags: Any) -> AsyncIterator[Etcd]:
    async with Etcd([server.client_url for server in servers], **flags) as etcd:
        yield etcd


# -- keys --------------------------------------------------------------------------------------


def test_keys(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            assert await db.get("/a/1") == (None, 1)
            revision = await db.put("/a/1", b"one")
            found, _ = await db.get("/a/1")
            assert found is not None
            assert (found.value, found.mod_revision, found.lease) == (b"one", revision, 0)
            await db.put("/a/2", b"")
            await db.put("/b", b"b")
            keys, _ = await db.list("/a/")
            assert [kv.key for kv in keys] == ["/a/1", "/a/2"]
            assert [kv.value for kv in (await db.list("/a/", keys_only=True))[0]] == [b"", b""]
            assert await db.delete("/a/2")
            assert not await db.delete("/a/2")

    tell(story())


def test_conditional_writes(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            first = await db.put_if("/k", b"1", mod_revision=0)
            assert first is not None
            assert await db.put_if("/k", b"2", mod_revision=0) is None
            second = await db.put_if("/k", b"2", mod_revision=first)
            assert second is not None
            assert await db.put_if("/k", b"3", mod_revision=first) is None
            assert not await db.delete_if("/k", mod_revision=first)
            assert await db.delete_if("/k", mod_revision=second)

    tell(story())


def test_a_repeated_write_finds_what_the_first_one_wrote(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            lease = await db.grant(60)
            first = await db.put_if("/s/1", b"me", mod_revision=0, lease=lease)
            # the same request again, as after a connection that broke before the answer
            assert await db.put_if("/s/1", b"me", mod_revision=0, lease=lease) == first
            other = await db.grant(60)
            wanted = [NewKey("/s/1", b"x"), NewKey("/s/2", b"x"), NewKey("/s/3", b"x")]
            done = await db.put_first_absent(wanted, "/s/", lease=other)
            assert done.key == "/s/2"
            again = await db.put_first_absent(wanted, "/s/", lease=other)
            assert again == done  # and /s/3 is still free
            third = await db.grant(60)
            nothing = await db.put_first_absent(wanted[:2], "/s/", lease=third)
            assert nothing.key is None
            assert [kv.key for kv in nothing.keys] == ["/s/1", "/s/2"]
            # a candidate whose prefix exists is skipped
            guarded = [NewKey("/s/10", b"x", ("/s/1",)), NewKey("/s/4", b"x", ("/s/4",))]
            assert (await db.put_first_absent(guarded, "/s/", lease=third)).key == "/s/4"

    tell(story())


def test_forty_candidates_are_within_the_limits(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            lease = await db.grant(60)
            many = [NewKey(f"/s/{n}", b"x", (f"/s/{n}-",)) for n in range(40)]
            for candidate in many[:-1]:
                await db.put(candidate.key, b"taken")
            assert (await db.put_first_absent(many, "/s/", lease=lease)).key == "/s/39"

    tell(story())


def test_leases_of_etcd(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            lease = await db.grant(60)
            await db.put("/k", b"", lease=lease)
            assert await db.keep_alive(lease) == 60
            await db.revoke(lease)
            await db.revoke(lease)
            assert await db.keep_alive(lease) == 0
            assert (await db.get("/k"))[0] is None
            with pytest.raises(EtcdError, match="lease not found"):
                await db.put("/k", b"", lease=lease)

    tell(story())


def test_a_watch_tells_every_change_once_or_reports_that_it_can_not(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd) as db:
            revisions = [await db.put("/w/k", str(n).encode()) for n in range(5)]
            seen: list[bytes] = []
            async with contextlib.aclosing(db.watch("/w/", revisions[1])) as watch:
                async for batch in watch:
                    seen += [kv.value for _, kv in batch.events if kv is not None]
                    if len(seen) == 4:
                        break
            assert seen == [b"1", b"2", b"3", b"4"]
            etcd.compact(revisions[3])
            watch = db.watch("/w/", revisions[1])
            assert not (await anext(watch)).events
            with pytest.raises(CompactedError, match="compacted revision"):
                await anext(watch)
            with pytest.raises(CompactedError, match="restored from a backup or started empty"):
                await anext(db.watch("/w/", revisions[4] + 1000))

    tell(story())


# -- trouble -----------------------------------------------------------------------------------


def test_a_frozen_etcd_is_an_error_after_the_deadline(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd, deadline=0.5) as db:
            await db.put("/k", b"")
            lease = await db.grant(60)
            etcd.pause()
            for call in (db.get("/k"), db.put("/k", b""), db.grant(60), db.keep_alive(lease)):
                with pytest.raises(
                    EtcdUnavailableError, match=r"no answer (in time|within 0\.5 s)"
                ):
                    await call
            etcd.resume()
            async with asyncio.timeout(PATIENCE):
                while True:
                    with contextlib.suppress(EtcdUnavailableError):
                        await db.get("/k")
                        break

    tell(story())


def test_an_absent_etcd_is_one_line(etcd: EtcdServer) -> None:
    etcd.stop()

    async def story() -> None:
        async with client(etcd) as db:
            for call in (db.get("/k"), db.grant(60), db.keep_alive(7)):
                with pytest.raises(EtcdUnavailableError) as refusal:
                    await call
                assert str(refusal.value) == f"etcd {etcd.client_url}: Connection refused"
            with pytest.raises(EtcdUnavailableError, match="refused"):
                await anext(db.watch("/", 1))

    tell(story())


def test_a_rolling_restart_fails_no_call(
    etcd_cluster: Callable[[int], list[EtcdServer]],
) -> None:
    """There is always a quorum; only calls that an election interrupts may fail, with an error."""
    members = etcd_cluster(3)

    async def story() -> None:
        async with client(*members) as db:
            written = 0

            async def write() -> None:
                nonlocal written
                while True:
                    with contextlib.suppress(EtcdUnavailableError, EtcdError):
                        await db.put("/k", str(written).encode())
                        written += 1

            writing = asyncio.create_task(write())
            for member in members:
                before = written
                await asyncio.to_thread(member.kill)
                async with asyncio.timeout(PATIENCE):
                    while written < before + 20:  # noqa: ASYNC110 - two members serve
                        await asyncio.sleep(0.02)
                await asyncio.to_thread(member.start)
            writing.cancel()
            found, _ = await db.get("/k")
            assert found is not None
            assert int(found.value) >= written - 1

    tell(story())


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
        for flags in (
            {
                "ca": stranger.ca,
                "cert": cert,
                "key": key,
            },  # a server whose authority we do not trust
            {
                "ca": authority.ca,
                "cert": wrong_cert,
                "key": wrong_key,
            },  # the server does not trust our authority
            {"ca": authority.ca},  # no certificate of ours
        ):
            async with client(secure, **flags) as db:
                with pytest.raises(EtcdError) as refusal:
                    await db.get("/k")
                assert "\n" not in str(refusal.value)
                assert "check --etcd-cafile, --etcd-certfile and --etcd-keyfile" in str(
                    refusal.value
                )

    tell(story())


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
                async with asyncio.timeout(PATIENCE):
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
        tell(story())
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
            for turn in range(2):
                await asyncio.sleep(2.5)  # the token has expired: it is valid for one second
                await db.put_if(f"/mesh/{turn}", b"", mod_revision=0, lease=lease)
                assert await db.keep_alive(lease) == 60
            await asyncio.sleep(2.5)
            watch = db.watch("/mesh/", 1)
            async with contextlib.aclosing(watch):
                assert (await anext(watch)).events == ()
                assert len((await anext(watch)).events) == 3
            assert guarded.requests()["Authenticate"] == logins + 3
            guarded.stop()  # a restarted etcd has forgotten its tokens
            guarded.start()
            async with asyncio.timeout(PATIENCE):
                while True:
                    with contextlib.suppress(EtcdUnavailableError):
                        assert (await db.get("/mesh/k"))[0] is not None
                        break

    tell(story())


@pytest.mark.parametrize(
    ("username", "password", "part"),
    [
        ("mesh", "wrong", "authentication failed"),
        ("nobody", "word", "authentication failed"),
        (None, None, "user name is empty"),
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
                assert "check --etcd-username, --etcd-password" in str(refusal.value)
            with pytest.raises(EtcdAuthError, match=part):
                await db.get("/mesh/k")

    tell(story())


def test_a_role_without_permission_is_one_line(guarded: EtcdServer) -> None:
    async def story() -> None:
        async with client(guarded, **MESH) as db:
            for call in (db.get("/other"), db.put("/other", b""), anext(db.watch("/other", 1))):
                with pytest.raises(EtcdAuthError, match="permission denied"):
                    await call

    tell(story())


def test_credentials_are_accepted_where_none_are_needed(etcd: EtcdServer) -> None:
    async def story() -> None:
        async with client(etcd, **MESH) as db:
            await db.put("/k", b"")

    tell(story())


def test_switching_authentication_on_under_a_running_daemon(guarded: EtcdServer) -> None:
    guarded.ctl("auth", "disable")

    async def story() -> None:
        async with client(guarded, **MESH) as db:
            await db.put("/mesh/k", b"")
            guarded.ctl("auth", "enable")
            await db.put("/mesh/k", b"")
            guarded.ctl("auth", "disable")
            await db.put("/mesh/k", b"")

    tell(story())


def test_waiting_takes_no_cpu(etcd: EtcdServer) -> None:
    etcd.stop()

    async def story() -> None:
        async with client(etcd) as db:
            burnt, until = time.process_time(), time.monotonic() + 2
            while time.monotonic() < until:
                with contextlib.suppress(EtcdUnavailableError):
                    await db.get("/k")
            assert time.process_time() - burnt < 1

    tell(story())
