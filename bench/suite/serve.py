# SPDX-License-Identifier: Apache-2.0
"""`flatmesh bench serve`: one end of a measurement between two real hosts.

It attaches a temporary pod by the host's own CNI plugins, starts iperf3 servers in the pod and on
the underlay's address if it is to be the receiving end, prints one line of JSON, and waits for the
end of its standard input. Then, or when it is told to end, it stops the servers and removes the
pod.

Nothing listens for commands: who may start it and end it is whoever holds its standard input, such
as an ssh connection. When that breaks, everything goes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from base.errors import FlatmeshError
from bench.prerequisites import require
from bench.suite import machine
from bench.traffic import TrafficEnd, in_netns, iperf_server
from hostnet import netns
from lab import processes
from lab.hosts import ip
from lab.runtime import PluginError, PodInterface, Runtime

DEFAULT_CONFLIST = Path("/etc/cni/net.d/10-flatmesh.conflist")
FALLBACK: Mapping[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [{"type": "flatmesh"}],
}
PREFIX = "flatmesh-bench-"
OUTSIDE = "192.0.2.1"
"""Documentation prefix (RFC 5737): the route to it is the default route."""


class ServeError(FlatmeshError):
    """This host can't be measured; one line."""


@dataclass(frozen=True, slots=True)
class EndReport:
    """What one end tells the measuring program, as one line of JSON."""

    version: str
    netns: str
    """The pod's, a path."""
    address: str
    """The pod's."""
    underlay: str
    python: str
    machine: dict[str, Any]
    add: list[float]
    """How long ADDs took, ms."""
    delete: list[float]


def serve(conflist: Path | None, cni_bin: Path, underlay: str, *, listen: bool, calls: int) -> None:
    """Be one end until standard input ends.

    `conflist` None: the installed one. Raises ClickException, FlatmeshError, MeasureError, OSError.
    """
    require("ip", "iperf3", "nsenter", "ping", "setpriv")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(143))  # so that the pod is removed
    plugins = read_conflist(conflist)
    runtime = Runtime((cni_bin,), dict(os.environ))
    address = underlay or default_address()
    with contextlib.ExitStack() as stack:
        remove_left_behind(runtime, plugins)
        name = f"{PREFIX}{os.getpid()}"
        stack.callback(netns.remove, name)
        path = netns.create(name)
        pod = PodInterface(name, str(path))
        _add(runtime, plugins, pod)
        stack.callback(runtime.delete, plugins, pod)
        runtime.delete(plugins, pod)  # the first call is slower, and is not counted
        times: dict[str, list[float]] = {"add": [], "del": []}
        for _ in range(calls):
            times["add"].append(_milliseconds(lambda: runtime.add(plugins, pod)))
            times["del"].append(_milliseconds(lambda: runtime.delete(plugins, pod)))
        result = runtime.add(plugins, pod)
        if listen:
            stack.enter_context(iperf_server(in_netns(name)))
            stack.enter_context(iperf_server(TrafficEnd(()), "--bind", address))
        report = EndReport(
            machine.flatmesh_version(),
            str(path),
            str(ip_interface(result["ips"][0]["address"]).ip),
            address,
            sys.executable,
            machine.machine(),
            times["add"],
            times["del"],
        )
        print(json.dumps(asdict(report)), flush=True)
        sys.stdin.buffer.read()


def remove_left_behind(runtime: Runtime, plugins: Mapping[str, Any]) -> None:
    """Remove the pods of `serve` that were killed: their namespaces are named after dead processes.

    Raises PluginError, NetnsError.
    """
    for path in processes.NETNS_DIR.glob(f"{PREFIX}*"):
        pid = path.name.removeprefix(PREFIX)
        if pid.isdigit() and not processes.running(int(pid)):
            runtime.delete(plugins, PodInterface(path.name, str(path)))
            netns.remove(path.name)


def _add(runtime: Runtime, plugins: Mapping[str, Any], pod: PodInterface) -> None:
    """Attach the pod; when this is interrupted, detach it. Raises PluginError: nothing is left."""
    try:
        runtime.add(plugins, pod)
    except PluginError:
        raise
    except BaseException:
        runtime.delete(plugins, pod)
        raise


def read_conflist(path: Path | None) -> Mapping[str, Any]:
    """Return the CNI config that pods are attached with. Raises ServeError, OSError."""
    if path is None:
        if not DEFAULT_CONFLIST.exists():
            return FALLBACK
        path = DEFAULT_CONFLIST
    try:
        conflist = json.loads(path.read_text())
        if conflist["plugins"] and conflist["name"] and conflist["cniVersion"]:
            return dict(conflist)
    except (ValueError, KeyError, TypeError):
        pass
    raise ServeError(f"{path}: no CNI conflist (cniVersion, name and plugins are needed)")


def default_address() -> str:
    """Return the address from which this host uses its default route. Raises ServeError."""
    with contextlib.suppress(FlatmeshError, ValueError, KeyError, IndexError):
        return str(json.loads(ip("-json", "route", "get", OUTSIDE))[0]["prefsrc"])
    raise ServeError("this host has no IPv4 default route; give its address with --underlay")


def _milliseconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return round((time.perf_counter() - started) * 1e3, 2)
