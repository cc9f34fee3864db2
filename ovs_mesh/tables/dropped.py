# SPDX-License-Identifier: Apache-2.0
"""Table `dropped`: a flow per drop reason, so that its packet counter tells how many."""

from __future__ import annotations

from collections.abc import Iterator

from ovs_mesh.inputs import HostInputs
from ovs_mesh.pipeline import DROP, DROP_REGISTER, DROP_TABLE, Exits, Flow, Stage, Table, Traffic


def _flows(inputs: HostInputs, exits: Exits) -> Iterator[Flow]:
    del inputs
    for number in exits.drop_reasons.values():
        yield Flow(1, f"{DROP_REGISTER}={number}", DROP)


DROPPED = Table(DROP_TABLE, Stage.DROP, Traffic.NONE, _flows)
