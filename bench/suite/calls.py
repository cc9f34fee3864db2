# SPDX-License-Identifier: Apache-2.0
"""ADD and DEL: how long a runtime waits for a pod's network.

The hosts, and the way a call is timed, are those of `bench.cni_latency`: flatmesh by the daemon's
socket beside Debian's `bridge` with `host-local`, each on a host with some pods already attached.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence

from bench.cni_latency import BenchHost, fill, hosts, start
from bench.suite.figures import Samples
from bench.suite.subjects import PLUGINS, REFERENCE, Subject
from bench.traffic import MeasureError

PRESENT = 5  # pods attached on each host before


@contextlib.contextmanager
def attaching(
    wanted: Sequence[Subject], count: int, samples: Samples
) -> Iterator[Callable[[], None]]:
    """Yield the function that takes a round's samples: medians of `count` calls each."""
    names = [subject.name for subject in wanted]
    if not names:
        yield lambda: None
        return
    with hosts() as (reference, own):
        measured = {PLUGINS: own, REFERENCE: reference}
        present = {name: measured[name] for name in names}
        for host in present.values():
            fill(host, PRESENT)
            host.add_pods(1)  # the one that is attached and detached
        yield lambda: _round(present, count, samples)


def _round(present: dict[str, BenchHost], count: int, samples: Samples) -> None:
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(count):
        for name, host in present.items():
            for command in ("ADD", "DEL"):
                taken = times.setdefault((command.lower(), name), [])
                try:
                    taken.append(start(host, command, host.pods[-1]).wait())
                except MeasureError as error:
                    samples.errors.append(str(error))
    for (figure, name), values in times.items():
        samples.add(figure, name, statistics.median(values) if values else None)
