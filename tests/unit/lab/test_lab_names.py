# SPDX-License-Identifier: Apache-2.0
"""Which namespaces are a lab's, whatever the names of other labs are."""

from __future__ import annotations

import pytest

from lab.daemon import last_error, last_words
from lab.hosts import LabError, Names, lab_of


@pytest.mark.parametrize(
    "name", ["lab", "a", "a-b", "a-b2-c", "h1", "net", "h1-b", "a-hx", "a-nets"]
)
def test_every_namespace_of_a_lab_is_told_to_be_its(name: str) -> None:
    names = Names(name)
    for netns in (names.underlay, names.host(1), names.host(12), names.pod(1, "p1")):
        assert lab_of(netns) == name


@pytest.mark.parametrize(
    "name", ["", "A", "a_b", "-a", "a-", "a--b", "a-h1", "a-net", "a-h1-b", "a" * 21, "a\n"]
)
def test_a_name_that_could_be_another_labs_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="use 1 to 20 lower-case letters and digits"):
        Names(name)


def test_a_daemons_last_words_are_its_message() -> None:
    log = (
        'time=2026-01-01T00:00:00.000Z level=info component=agent msg="etcd at x"\n'
        'time=2026-01-01T00:00:00.000Z level=error component=agent msg="no \\"Network\\" here"\n'
        "time=2026-01-01T00:00:00.000Z level=info component=agent msg=stopped\n"
    )
    assert last_error(log) == 'no "Network" here'
    assert last_words(log) == "stopped"
    assert last_words("Usage: flatmeshd\n\nError: Invalid value\n") == "Invalid value"
    assert (last_error(""), last_words("")) == ("", "it said nothing")
