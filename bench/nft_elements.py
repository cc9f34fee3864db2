# SPDX-License-Identifier: Apache-2.0
"""Elements of an nftables map: our packed messages beside `nft -f`.

    python -m bench.nft_elements [--elements 100000] [--rounds 3] [--json FILE]

The map is `ipv4_addr . inet_service : ipv4_addr . inet_service`, as a service's endpoints are
kept. Every round measures both, each in a fresh network namespace; the figures are the medians.

    cold        from the elements in memory to all of them in the kernel; for the baseline from
                the text in memory to the end of `nft -f -`
    one         one element's data changed, with all the others present
    read        all elements read back; for the baseline `nft list map`
"""

from __future__ import annotations

import secrets
import statistics
import struct
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from bench.prerequisites import progress, require, run
from bench.report import Report
from hostnet import netns
from hostnet.nft import datatypes
from hostnet.nft.sets import NftElement, NftSet, SetSocket, add_sets, change_elements

SUBJECT, BASELINE = "flatmesh", "nft -f"
MAP = NftSet(
    "inet", "bench", "endpoints", ("ipv4_addr", "inet_service"), ("ipv4_addr", "inet_service")
)
FIRST, FIRST_TARGET = 0x0A000000, 0x0A800000  # 10.0.0.0, 10.128.0.0
SINGLES = 20  # changes of one element


def element(number: int, *, port: int = 8080) -> NftElement:
    """One of the map's elements."""
    return NftElement(
        MAP,
        datatypes.pack(MAP.types, struct.pack(">I", FIRST + number), struct.pack(">H", 80)),
        datatypes.pack(MAP.data, struct.pack(">I", FIRST_TARGET + number), struct.pack(">H", port)),
    )


def nft(name: str, text: str) -> None:
    """Run `nft -f -` in a namespace."""
    command = ["ip", "netns", "exec", name, "nft", "-f", "-"]
    subprocess.run(command, input=text, text=True, check=True)


def replace_element(sets: SetSocket, old: NftElement, new: NftElement) -> None:
    """Change one element's data."""
    sets.apply(list(change_elements([old], [new])))


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that it takes."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def measure_ours(name: str, elements: list[NftElement]) -> dict[str, float]:
    """Milliseconds of each figure, by packed messages."""
    nft(name, f"add table {MAP.family} {MAP.table}\n")
    with SetSocket(name) as sets:
        sets.apply(add_sets([MAP]))
        found = {"cold": timed(lambda: sets.apply(list(change_elements((), elements))))}
        singles = []
        for number in range(SINGLES):
            old, new = elements[number], element(number, port=9090)
            singles.append(timed(partial(replace_element, sets, old, new)))
        found["one"] = statistics.median(singles)
        found["read"] = timed(lambda: sets.elements(MAP))
        if len(sets.elements(MAP)) != len(elements):
            raise click.ClickException("the map does not hold all elements")
    return found


def measure_nft(name: str, elements: list[NftElement]) -> dict[str, float]:
    """Milliseconds of each figure, by text."""
    nft(name, f"add table {MAP.family} {MAP.table}\n{MAP.line().removeprefix('nft ')}\n")
    where = f"element {MAP.family} {MAP.table} {MAP.name}"
    text = ", ".join(one.line().partition("{ ")[2].removesuffix(" }") for one in elements)
    found = {"cold": timed(lambda: nft(name, f"add {where} {{ {text} }}\n"))}
    singles = []
    for number in range(3):
        old = elements[number].line("delete").removeprefix("nft ")
        new = element(number, port=9090).line().removeprefix("nft ")
        singles.append(timed(partial(nft, name, f"{old}\n{new}\n")))
    found["one"] = statistics.median(singles)
    listing = ["ip", "netns", "exec", name, "nft", "list", "map", *MAP.key]
    found["read"] = timed(lambda: subprocess.run(listing, stdout=subprocess.DEVNULL, check=True))
    return found


@click.command()
@click.option("--elements", "count", default=100_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(count: int, rounds: int, json_file: Path | None) -> None:
    """Measure both and print the table."""
    require("nft")
    elements = [element(number) for number in range(count)]
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for subject, measure in ((BASELINE, measure_nft), (SUBJECT, measure_ours)):
            name = f"bench-{secrets.token_hex(4)}"
            netns.create(name)
            try:
                for what, value in measure(name, elements).items():
                    figures[what, subject].append(value)
            finally:
                netns.remove(name)
    report = Report(f"{count} elements of an nftables map", BASELINE)
    for (what, subject), values in figures.items():
        report.add(subject, what, statistics.median(values), "ms")
    report.show(json_file)


if __name__ == "__main__":
    run(main)
