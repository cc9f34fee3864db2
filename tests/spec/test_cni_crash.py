# SPDX-License-Identifier: Apache-2.0
"""Killed at any step, by SIGKILL: DEL, GC or the next start leaves nothing.

`FLATMESH_CRASH_AT` kills the process at a named step (`cni.crash_points`); it is given to the
daemon *and* to the executable, which would otherwise do the work when the daemon has died.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni import crash_points
from tests.spec.cni_host import Answer, CniHost, MakeConf, MakeHost, addresses

LONG = bool(os.environ.get("FLATMESH_LONG"))
ROUNDS = 1000 if LONG else 60
POINTS = [("ADD", p) for p in crash_points.ADD] + [("DEL", p) for p in crash_points.DELETE]
# before these the pod is whole, and the next start has no reason to touch it
WHOLE = ("add-ready", "del-found", "del-unfirewalled")


def config(host: CniHost, conf: MakeConf, point: str) -> dict[str, Any]:
    """All that ADD can leave behind: a port, addresses, nftables' elements, a delegate's file."""
    keys: dict[str, Any] = {"ipMasq": True, "macspoofchk": True}
    if "delegated" in point:
        keys["ipam"] = {
            "type": "host-local",
            "ranges": [[{"subnet": "10.77.0.0/24"}]],
            "dataDir": str(host.directory / "host-local"),
        }
    return conf(**keys)


def nothing_left(host: CniHost) -> list[str]:
    """Every place where something could be left."""
    found = [f"record {r}" for r in host.records()]
    found += [f"host interface {c}" for c in host.host_interfaces()]
    reserved = (host.directory / "host-local").glob("*/[0-9]*")
    found += [f"reservation {p.name}" for p in reserved]
    for family in ("inet", "bridge"):
        done = host.run("nft", "-json", "list", "table", family, "flatmesh_cni")
        for item in json.loads(done.stdout or '{"nftables":[]}')["nftables"]:
            name = item.get("set", {}).get("name", "")
            if not name.startswith("near"):
                found += [f"{name} {element}" for element in item.get("set", {}).get("elem", [])]
    return found


def crash(
    host: CniHost, command: str, point: str, settings: dict[str, Any], container: str, pod: str
) -> None:
    """Call the plugin and die at the point: nobody answers."""
    if command == "DEL":
        host.call("ADD", settings, container, pod).result()
    with_fault = {crash_points.VARIABLE: point}
    if host.server is not None:
        host.kill_server(signal.SIGTERM)
        host.serve(**with_fault)
    answer = host.call(command, settings, container, pod, environment=with_fault)
    if host.server is None:
        assert answer.status == -signal.SIGKILL
    else:  # the executable may then find nothing to do, and never reach the point itself
        assert host.server.wait(60) == -signal.SIGKILL
        host.kill_server()


def collect(host: CniHost, settings: dict[str, Any]) -> Answer:
    """GC that finds no attachment valid. Debian's host-local has no 1.1.0, and needs none."""
    return host.call("GC", {**settings, "cniVersion": "1.1.0", "cni.dev/valid-attachments": []})


def start_again(host: CniHost) -> list[str]:
    """A daemon's start; it tells when it has looked for leftovers."""
    from cni.host import host_from_environment
    from cni.pod.collect import sweep
    from hostnet.netns import run_in

    return run_in(host.name, lambda: sweep(host_from_environment(host.variables)))


@pytest.mark.parametrize("cure", ["DEL", "DEL without netns", "GC", "start", "ADD"])
@pytest.mark.parametrize(("command", "point"), POINTS)
def test_killed_without_a_daemon(
    crash_host: CniHost, container: str, conf: MakeConf, command: str, point: str, cure: str
) -> None:
    cured(crash_host, container, conf, command, point, cure)


@pytest.mark.parametrize("cure", ["DEL", "start"])
@pytest.mark.parametrize(("command", "point"), POINTS)
def test_killed_daemon(
    own_host: CniHost, container: str, conf: MakeConf, command: str, point: str, cure: str
) -> None:
    own_host.serve()
    cured(own_host, container, conf, command, point, cure)


@pytest.fixture(scope="module")
def crash_host_shared(
    tmp_path_factory: pytest.TempPathFactory, bin_dir: Path, make_host: MakeHost
) -> Iterator[CniHost]:
    with make_host(tmp_path_factory.mktemp("h"), bin_dir) as host:
        yield host


@pytest.fixture
def crash_host(crash_host_shared: CniHost) -> Iterator[CniHost]:
    yield crash_host_shared
    crash_host_shared.clear()
    crash_host_shared.forget_all()


def cured(
    host: CniHost, container: str, conf: MakeConf, command: str, point: str, cure: str
) -> None:
    settings, pod = config(host, conf, point), host.pod()
    crash(host, command, point, settings, container, pod)
    if cure == "DEL":
        host.call("DEL", settings, container, pod).result()
    elif cure == "DEL without netns":
        host.call("DEL", settings, container, "").result()
    elif cure == "GC":
        collect(host, settings).result()
    elif cure == "start":
        lines = start_again(host)
        assert all(container in line for line in lines)
        if point in WHOLE:
            assert lines == []
            assert len(host.host_interfaces()) == 1
            host.call("DEL", settings, container, pod).result()
    elif point in WHOLE:
        again = host.call("ADD", settings, container, pod)
        if point == "add-ready":  # nobody got the answer
            mine = {a.partition("/")[0] for a in addresses(host, pod)}
            assert {ip["address"].partition("/")[0] for ip in again.result()["ips"]} == mine
            again = host.call("ADD", settings, container, pod)
        again.refused(102)
        host.call("DEL", settings, container, pod).result()
    else:
        result = host.call("ADD", settings, container, pod).result()
        assert host.run("ping", "-c1", "-W5", result["ips"][0]["gateway"], pod=pod).returncode == 0
        host.call("DEL", settings, container, pod).result()
    assert nothing_left(host) == []
    assert [link["ifname"] for link in host.ip("link", "show", pod=pod)] == ["lo"]


def test_add_succeeds_without_a_daemon_that_died(
    own_host: CniHost, container: str, conf: MakeConf
) -> None:
    """The runtime notices nothing: the executable finds the half-made pod and makes it anew."""
    for point in crash_points.ADD[:-1]:
        if "delegated" in point:
            continue
        own_host.serve(**{crash_points.VARIABLE: point})
        pod = own_host.pod()
        own_host.call("ADD", config(own_host, conf, point), f"{container}-{point}", pod).result()
        own_host.kill_server()
    held = own_host.held()
    assert len(set(held)) == len(held)
    for point in crash_points.ADD[:-1]:
        own_host.call("DEL", config(own_host, conf, point), f"{container}-{point}").result()
    assert nothing_left(own_host) == []


def test_a_reboot_frees_every_address(own_host: CniHost, container: str, conf: MakeConf) -> None:
    from ipam.address_store import AddressStore

    pod = own_host.pod()
    own_host.call("ADD", conf(), container, pod).result()
    own_host.remove_pod(pod)
    store_file = own_host.directory / "state" / "addresses.sqlite"
    with AddressStore(store_file, boot_id="another-boot") as store:
        assert store.list() == []
    own_host.call("DEL", conf(), container, "").result()  # the runtime cleans up, late
    own_host.call("ADD", conf(), container, own_host.pod()).result()
    own_host.call("DEL", conf(), container).result()


@pytest.mark.timeout(900 if LONG else 180)
def test_random_kills_leak_nothing(own_host: CniHost, conf: MakeConf) -> None:
    """Pods come and go from many threads while executables and the daemon are killed."""
    host, seed = own_host, int.from_bytes(secrets.token_bytes(4), "big")
    print(f"seed {seed}")
    rounds = iter(range(ROUNDS))
    failures: list[str] = []
    taking, done = threading.Lock(), threading.Event()
    host.serve()

    def worker(number: int) -> None:
        chance = random.Random(seed + number)
        while True:
            with taking:
                each = next(rounds, None)
            if each is None or failures:
                return
            try:
                one_round(host, conf(macspoofchk=each % 7 == 0), f"r{each}", chance)
            except Exception as error:  # noqa: BLE001 - reported by the test's own thread
                failures.append(f"round {each}: {error!r}")

    def killer() -> None:
        chance = random.Random(seed - 1)
        while not done.wait(chance.uniform(0.05, 0.6)):
            host.kill_server()
            host.serve()

    threads = [threading.Thread(target=worker, args=(n,)) for n in range(6)]
    threads.append(threading.Thread(target=killer))
    for thread in threads:
        thread.start()
    for thread in threads[:-1]:
        thread.join()
    done.set()
    threads[-1].join()
    assert failures == []
    assert nothing_left(host) == []


def one_round(
    host: CniHost, settings: dict[str, Any], container: str, chance: random.Random
) -> None:
    """ADD with a kill or none, a look at the address store, DEL until it is not killed."""
    pod = host.pod()
    answer = called(host, "ADD", settings, container, pod, chance)
    held = host.held()
    assert len(set(held)) == len(held), f"an address is held twice: {sorted(held)}"
    if answer is not None and answer.status == 0:
        links = host.ip("addr", "show", "dev", "eth0", pod=pod)
        mine = {a["local"] for a in links[0]["addr_info"] if a["scope"] == "global"}
        assert mine <= set(held)
    while True:
        answer = called(host, "DEL", settings, container, pod, chance)
        if answer is not None:
            assert answer.status == 0, answer.stdout
            break
    assert [link["ifname"] for link in host.ip("link", "show", pod=pod)] == ["lo"]
    host.remove_pod(pod)


def called(
    host: CniHost,
    command: str,
    settings: dict[str, Any],
    container: str,
    pod: str,
    chance: random.Random,
) -> Answer | None:
    """The answer, or None when the executable was killed first."""
    if chance.random() < 0.5:
        return host.call(command, settings, container, pod)
    call = host.start(command, settings, container, pod)
    process = call.process
    assert process.stdin is not None
    process.stdin.write(call.stdin)
    process.stdin.close()
    process.stdin = None
    time.sleep(chance.choice([0.001, 0.01, 0.1, 0.2]) * chance.random())
    process.kill()
    try:
        process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return None
