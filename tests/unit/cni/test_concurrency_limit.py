# SPDX-License-Identifier: Apache-2.0
"""Who waits for somebody else lets other calls work."""

from __future__ import annotations

import threading

import pytest

from cni.concurrency_limit import ConcurrencyLimit, slots_for
from cni.host import PluginHost


@pytest.mark.parametrize(("processors", "slots"), [(1, 1), (2, 1), (3, 2), (64, 2)])
def test_slots_follow_from_the_processors(processors: int, slots: int) -> None:
    assert slots_for(processors) == slots


def test_an_add_that_waits_for_the_switch_lets_others_work() -> None:
    attached = threading.Event()
    host = PluginHost(on_pods_changed=lambda: attached, concurrency=ConcurrencyLimit(1))
    began = threading.Event()

    def add() -> None:
        with host.concurrency.slot():
            began.set()
            host.pods_changed()

    waiting = threading.Thread(target=add)
    waiting.start()
    assert began.wait(60)
    with host.concurrency.slot():  # the one that there is
        attached.set()
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_call_that_hangs_does_not_keep_others_waiting() -> None:
    limit = ConcurrencyLimit(1, timeout=0.05)
    end, began = threading.Event(), threading.Event()

    def hang() -> None:
        with limit.slot():
            began.set()
            end.wait(60)

    hanging = threading.Thread(target=hang)
    hanging.start()
    assert began.wait(60)
    for _ in range(3):
        with limit.slot(), limit.released():
            pass
    end.set()
    hanging.join(60)
    with limit.slot():  # it was given back once, and is taken
        assert not limit._free.acquire(blocking=False)
    assert limit._free.acquire(blocking=False)
    assert not limit._free.acquire(blocking=False)
