# SPDX-License-Identifier: Apache-2.0
"""Each `sh` block of the documents is run by a test, or there is a reason why not."""

from __future__ import annotations

from tests.scenario.service.documented_blocks import NOT_RUN, RUN, blocks


def test_each_block_is_run_or_there_is_a_reason() -> None:
    known = RUN.keys() | NOT_RUN.keys()
    there = {block.key for block in blocks()}
    new = "a new block: add it to RUN or NOT_RUN in tests/scenario/service/documented_blocks.py"
    assert there - known == set(), new
    assert known - there == set(), "these blocks are in no document any more"
    assert not RUN.keys() & NOT_RUN.keys()
