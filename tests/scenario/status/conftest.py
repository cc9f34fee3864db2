# SPDX-License-Identifier: Apache-2.0
"""A lab that the tests of status and check share, each module its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.cluster import Lab
from tests.scenario.conftest import running_lab


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two hosts, dual stack, a pod each."""
    directory = tmp_path_factory.mktemp("labs")
    with running_lab(request.config, directory, hosts=2, pods_per_host=1, ipv6=True) as lab:
        yield lab
