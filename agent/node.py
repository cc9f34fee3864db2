"""One host of the cluster: the loop that keeps it as the leases say.

The loop is level-triggered. Whatever wakes it (a changed lease, netlink noise, the resync
timer, a changed cluster config) it does the same `turn`: look at what is wanted, make it so.
It never reacts *to* an event, so a missed, doubled or reordered one does no harm.

A turn, top to bottom; each step is skipped while what it needs is missing, and everything
already running stays as it is:

    cluster config      read with the lease snapshot; a broken one is reported, the last good kept
    underlay            which device and addresses peers reach us by
    backend             made anew when its part of the config changed
    lease               held, published with current attributes, or acquired
    desired state       from all leases; first dump and diff, then differences only
    files               subnet.env for the CNI plugins, `ready` for whoever waits

Etcd may go away at any time: the kernel keeps forwarding, pods come and go, and the lease
view catches up when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from agent.backends import make_backend
from agent.desired import DesiredState, Situation
from agent.lease_keeper import LeaseKeeper
from agent.metrics import Metrics
from agent.settings import Settings
from flannel.backend import Backend, DataPlane
from hostnet.apply import reconcile
from hostnet.kernel import Kernel
from hostnet.state import HostState
from hostnet.underlay import Underlay, UnderlayError
from hostnet.underlay_detect import detect_underlay
from ipam.lease import Lease, PeerUnusableError
from ipam.lease_view import LeaseView, Snapshot
from ipam.network import ConfigError, NetworkConfig
from ipam.registry import Registry
from ipam.subnet_env import SubnetEnv

log = logging.getLogger("agent")
__all__ = ["Node"]
