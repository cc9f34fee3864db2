# SPDX-License-Identifier: Apache-2.0
"""Every kind of change by another program to all that flatmesh makes: put right, on every backend.

The table is `cases.py`. One lab for each backend; the daemon's resync is a day away, so that it is
not what repairs. Whether an event or a check did is read in the daemon's log.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.cluster import Lab
from tests.scenario.conftest import running_lab
from tests.scenario.drift.cases import BACKENDS, CHECK, DUAL_STACK, Drift, of_backend
from tests.scenario.drift.host_state import HOST, disturb, run, state

On = Callable[..., str]
Eventually = Callable[..., None]
CASES = [
    pytest.param(
        *(backend, drift),
        id=f"{backend}: {drift.id}",
        marks=pytest.mark.kernel(drift.kernel) if drift.kernel else (),
    )
    for backend in BACKENDS
    for drift in of_backend(backend)
]
MADE = re.compile(r"made \d+ changes in .* ms \((.*)\)")
LINE = re.compile(r"component=agent\.(\S+)")
TIMEOUT = 60.0
TRIES = 3


@pytest.fixture(scope="module")
def lab_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Lab]]:
    """The lab of a backend, which lasts until one of another backend is asked for."""
    made: dict[str, Lab] = {}
    with contextlib.ExitStack() as stack:

        def of(backend: str) -> Lab:
            if backend not in made:
                stack.close()
                made.clear()
                spec = {"hosts": 2, "pods_per_host": 1, "ipv6": backend in DUAL_STACK}
                directory = tmp_path_factory.mktemp("d")
                lab = stack.enter_context(
                    running_lab(request.config, directory, backend=BACKENDS[backend], **spec)
                )
                lab.stop_daemon(HOST)
                lab.start_daemon(HOST, "--resync=86400")
                lab.wait_ready(HOST)
                run(lab, "ip link add foreign type bridge")
                made[backend] = lab
            return made[backend]

        yield of


def reaches(lab: Lab, on: On) -> bool:
    here, there = (next(pod for pod in lab.pods if pod.host == number) for number in (1, 2))
    return all(
        "1 received" in on(here.netns, f"ping -c 1 -W 1 {address}", check=False)
        for address in there.addresses
    )


@pytest.mark.parametrize(("backend", "drift"), CASES)
def test_drift_is_put_right(
    lab_of: Callable[[str], Lab], on: On, eventually: Eventually, backend: str, drift: Drift
) -> None:
    lab = lab_of(backend)
    eventually(lambda: reaches(lab, on), "pods reach each other before", timeout=TIMEOUT)
    for _ in range(TRIES):
        before = settled(lab, eventually)
        begin = len(lab.log(HOST))
        disturb(lab, drift.commands)
        wait_for_repair(lab, before, eventually, drift)
        eventually(lambda: reaches(lab, on), "pods reach each other", timeout=TIMEOUT)
        # a check that came by just then may have been faster than the event
        if drift.noticed == CHECK or told_by_event(lab.log(HOST)[begin:]):
            return
    raise AssertionError(f"no event told of it: {lab.log(HOST)[begin:]}")


def wait_for_repair(lab: Lab, before: dict[str, Any], eventually: Eventually, drift: Drift) -> None:
    differs: list[str] = []

    def repaired() -> bool:
        try:
            now = state(lab)
        except (AssertionError, OSError, ValueError):  # a program or a device is not back yet
            return False
        wrong = [key for key in now if now[key] != before[key]]
        differs[:] = [f"{key}: {before[key]} -> {now[key]}" for key in wrong]
        return not differs

    try:
        eventually(repaired, drift.id, timeout=TIMEOUT)
    except AssertionError as error:
        raise AssertionError(f"{error}\n" + "\n".join(differs)) from None


def settled(lab: Lab, eventually: Eventually) -> dict[str, Any]:
    """The state, when it no longer changes by itself."""
    last: list[dict[str, Any]] = [state(lab)]

    def same() -> bool:
        before, last[0] = last[0], state(lab)
        return before == last[0]

    eventually(same, "the host is settled", timeout=TIMEOUT)
    return last[0]


def told_by_event(log: str) -> bool:
    reasons = {reason for found in MADE.findall(log) for reason in found.split(", ")}
    return bool(reasons - {"clock", "retry", "resync"})
