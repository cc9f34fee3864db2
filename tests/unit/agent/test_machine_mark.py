# SPDX-License-Identifier: Apache-2.0
"""Whether a state directory was made on this machine."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from agent.leases.machine_mark import Machine, cards, difference, doubt_copied_state, mark
from flannel.wireguard.key import KeyFile
from hostnet.kinds.actual_link import ActualLink
from ipam.lease_memory import LeaseMemory

ONE = Machine("id", "uuid", frozenset({"02:00:00:00:00:01", "02:00:00:00:00:02"}))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with a lease that was ours, and a WireGuard key."""
    directory = tmp_path / "state"
    directory.mkdir()
    (directory / "lease.json").write_text(json.dumps({"key": "10.5.1.0-24", "etcd_lease": 7}))
    KeyFile(directory).read_or_make()
    return directory


def doubted(directory: Path) -> tuple[bool, bool]:
    """Whether the lease is doubted, and whether a new key is wanted."""
    return LeaseMemory(directory / "lease.json").doubted, KeyFile(directory).rotation_wanted


def test_differences() -> None:
    assert difference(ONE, ONE) is None
    assert difference(ONE, replace(ONE, cards=frozenset({"02:00:00:00:00:02"}))) is None
    assert difference(ONE, replace(ONE, cards=frozenset())) is None  # none was found yet
    assert difference(ONE, replace(ONE, cards=frozenset({"02:00:00:00:00:03"}))) is not None
    assert difference(ONE, replace(ONE, machine_id="other")) is not None
    assert difference(ONE, replace(ONE, product_uuid="other")) is not None


def test_cards_are_what_carries_the_hosts_own_traffic() -> None:
    links = [
        ActualLink("lo", 1, mac="00:00:00:00:00:00"),
        ActualLink("eth0", 2, mac="02:00:00:00:00:01"),
        ActualLink("eth1", 3, "veth", mac="02:00:00:00:00:02"),
        ActualLink("docker0", 4, "bridge", mac="02:42:00:00:00:01"),
        ActualLink("veth1", 5, "veth", mac="02:00:00:00:00:03", master=4),
        ActualLink("phy-ovs", 6, "veth", mac="02:00:00:00:00:04", alias="flatmesh"),
        ActualLink("eth2", 7, mac="02:00:00:00:00:05", master=4),
    ]
    assert cards(links) == {"02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:05"}


def test_state_of_this_machine_is_not_doubted(state: Path) -> None:
    mark(state, ONE)
    more = replace(ONE, cards=ONE.cards | {"02:00:00:00:00:09"})
    for machine in (ONE, more, replace(ONE, cards=frozenset({"02:00:00:00:00:09"}))):
        doubt_copied_state(state, machine)
        assert doubted(state) == (False, False)


def test_state_of_another_machine_is_doubted_until_the_lease_is_kept(state: Path) -> None:
    mark(state, ONE)
    other = replace(ONE, product_uuid="other")
    doubt_copied_state(state, other)
    assert doubted(state) == (True, True)
    doubt_copied_state(state, other)  # a daemon that was killed before it held the lease
    assert doubted(state) == (True, True)


def test_a_copied_directory_is_doubted_on_the_same_machine(state: Path, tmp_path: Path) -> None:
    mark(state, ONE)
    copy = Path(shutil.copytree(state, tmp_path / "copy"))
    doubt_copied_state(copy, ONE)
    assert doubted(copy) == (True, True)
    doubt_copied_state(state, ONE)
    assert doubted(state) == (False, False)


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"machine_id": "id"}'])
def test_a_lease_without_a_mark_is_doubted_and_the_key_is_kept(
    state: Path, text: str | None
) -> None:
    if text is not None:
        (state / "machine.json").write_text(text)
    doubt_copied_state(state, ONE)
    assert doubted(state) == (True, False)
