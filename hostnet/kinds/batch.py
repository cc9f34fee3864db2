# SPDX-License-Identifier: Apache-2.0
"""Steps on the kernel's large tables, in as few system calls as it takes."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

from hostnet.kinds.kind import Failure, KernelView, Step
from hostnet.netlink.socket import NetlinkError, RequestBatch

GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL})
"""What the kernel answers, by kind of object, to the deletion of what isn't there."""

Encode = Callable[[Sequence[Any]], RequestBatch]
Explain = Callable[[Any, NetlinkError], str]


def reason_of(one: Any, error: NetlinkError) -> str:
    """The kernel's message."""
    del one
    return error.reason


def apply_batch(
    step: Step,
    view: KernelView,
    encode: Encode,
    *,
    on_device: bool = True,
    explain: Explain = reason_of,
) -> tuple[list[Failure], set[int]]:
    """Do a step; returns the failures, and the places in `step.objects` of those that failed.

    `encode` writes the messages. With `on_device` each object has a `link`, without which it
    can't be put, and has gone where it is to be deleted.
    """
    puts = not step.verb.startswith("delete")
    failures: list[Failure] = []
    failed: set[int] = set()
    places = list(range(len(step.objects)))
    if on_device or puts:
        missing = {one.link for one in step.objects if hasattr(one, "link")} - view.index.keys()
        if missing:
            lost = [place for place in places if step.objects[place].link in missing]
            places = [place for place in places if step.objects[place].link not in missing]
            for place in lost if puts else ():
                one = step.objects[place]
                failures.append(Failure(step.line(step.verb, one), f"no device {one.link}"))
                failed.add(place)
    objects = [step.objects[place] for place in places]
    try:
        batch = encode(objects)
    except (OSError, ValueError, LookupError):
        errors = _one_by_one(step, objects, view, encode)
    else:
        errors = {
            place: explain(objects[place], error)
            for place, error in view.socket.execute_batch(batch).items()
            if puts or error.errno not in GONE
        }
    for place, reason in errors.items():
        failures.append(Failure(step.line(step.verb, objects[place]), reason))
        failed.add(places[place])
    return failures, failed


def _one_by_one(
    step: Step, objects: Sequence[Any], view: KernelView, encode: Encode
) -> dict[int, str]:
    """A value among many that can't be packed (text that is no address) fails alone."""
    puts = not step.verb.startswith("delete")
    found: dict[int, str] = {}
    for place, one in enumerate(objects):
        try:
            batch = encode([one])
        except (OSError, ValueError, LookupError) as error:
            found[place] = f"can't be written as a netlink message: {error}"
            continue
        for problem in view.socket.execute_batch(batch).values():
            if puts or problem.errno not in GONE:
                found[place] = problem.reason
    return found
