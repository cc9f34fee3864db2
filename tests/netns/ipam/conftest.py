# SPDX-License-Identifier: Apache-2.0
"""An etcd with a cluster in it."""

from __future__ import annotations

import pytest

from lab.etcd_server import EtcdServer
from tests.netns.ipam.lease_reader import CONFIG, PREFIX, put


@pytest.fixture
def cluster(etcd: EtcdServer) -> EtcdServer:
    """A cluster with a config and two leases."""
    etcd.ctl("put", f"{PREFIX}/config", CONFIG)
    put(etcd, 1)
    put(etcd, 2)
    return etcd
