# SPDX-License-Identifier: Apache-2.0
"""Our netlink code beside pyroute2's, part by part: what stays hand-written has its figure here.

    python -m bench.netlink_libraries [--routes 1000] [--rounds 5] [--json FILE]

Each part is done by both in turn, in a namespace of the bench's own; the figures are medians.

    import              of the modules that a process needs, in a new interpreter
    bulk routes         as many routes as asked for, put one after the other
    route dump          the same routes read back as values
    links               all devices read
    generic netlink     a family looked up by name, the socket opened for it
    namespace           a named one made and removed
"""

from __future__ import annotations

import secrets
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import click

from bench.prerequisites import progress, require, run
from bench.report import Report
from hostnet import netns
from hostnet.kernel import Kernel
from hostnet.kinds.route_messages import Route, put_routes
from hostnet.netlink.generic import has_family

OURS, PYROUTE2 = "flatmesh", "pyroute2"
IMPORTS = {
    OURS: "import hostnet.kinds.link_messages, hostnet.kinds.route_messages",
    PYROUTE2: "import pyroute2",
}
Part = Callable[[], object]


def interpreter(code: str) -> None:
    """Run code in a new interpreter."""
    subprocess.run([sys.executable, "-c", code], check=True)


def our_parts(name: str, routes: list[Route]) -> dict[str, Part]:
    """What each part is by our own code."""
    kernel = Kernel(name)
    kernel.links()

    def namespace() -> None:
        other = f"bench-{secrets.token_hex(4)}"
        netns.create(other)
        netns.remove(other)

    return {
        "import": lambda: interpreter(IMPORTS[OURS]),
        "bulk routes": lambda: kernel.socket.execute_batch(
            put_routes(routes, kernel.index, 102, {})
        ),
        "route dump": lambda: kernel.routes(2),
        "links": kernel.links,
        "generic netlink": lambda: has_family("nlctrl", name),
        "namespace": namespace,
    }


def their_parts(name: str, routes: list[Route]) -> dict[str, Part]:
    """The same by pyroute2."""
    from pyroute2 import GenericNetlinkSocket, IPRoute
    from pyroute2 import netns as names

    ip = netns.run_in(name, IPRoute)
    index = ip.link_lookup(ifname="lo")[0]

    def bulk() -> None:
        for route in routes:
            ip.route("replace", dst=route.destination, oif=index, proto=102)

    def family() -> None:
        with GenericNetlinkSocket() as sock:
            sock.bind("nlctrl", "genlmsg")

    def namespace() -> None:
        other = f"bench-{secrets.token_hex(4)}"
        names.create(other)
        names.remove(other)

    return {
        "import": lambda: interpreter(IMPORTS[PYROUTE2]),
        "bulk routes": bulk,
        "route dump": lambda: list(ip.get_routes(family=2)),
        "links": lambda: list(ip.get_links()),
        "generic netlink": family,
        "namespace": namespace,
    }


@click.command()
@click.option("--routes", "count", default=1000, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(count: int, rounds: int, json_file: Path | None) -> None:
    """Measure both and print the table."""
    require()
    name = f"bench-{secrets.token_hex(4)}"
    netns.create(name)
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    try:
        routes = [Route(f"10.{n // 256 + 64}.{n % 256}.0/24", "lo") for n in range(count)]
        subjects = ((OURS, our_parts(name, routes)), (PYROUTE2, their_parts(name, routes)))
        for what in subjects[0][1]:
            progress(f"{what}, {rounds} rounds")
            for _ in range(rounds):
                for subject, parts in subjects:
                    started = time.perf_counter()
                    parts[what]()
                    figures[what, subject].append((time.perf_counter() - started) * 1e3)
    finally:
        netns.remove(name)
    report = Report("Netlink by hand and by pyroute2", OURS)
    for (what, subject), values in figures.items():
        report.add(subject, what, statistics.median(values), "ms")
    report.show(json_file)


if __name__ == "__main__":
    run(main)
