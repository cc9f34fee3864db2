# SPDX-License-Identifier: Apache-2.0
"""Checksum offload of pods that are ports of a userspace switch.

Such a switch reads packets as the pod's stack wrote them. With checksum offload on, a packet
carries no checksum yet, and the receiver drops it; so the pod's own interface must compute it.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hostnet import netns
from hostnet.kinds.offload import turn_tx_checksum_off
from ovs_mesh.pods import Pod


@dataclass(slots=True)
class PodChecksums:
    """Turns offload off once per pod interface."""

    _done: set[int] = field(default_factory=set)
    """Interface indexes of the host ends of the veth pairs."""

    def turn_off(self, pods: Sequence[Pod], pod_veths: Mapping[str, int]) -> None:
        """Turn it off in all pods whose veth pair is there. Raises OSError."""
        by_index = {pod_veths[pod.host_link]: pod for pod in pods if pod.host_link in pod_veths}
        self._done &= by_index.keys()
        for index in by_index.keys() - self._done:
            _turn_off(by_index[index])
            self._done.add(index)


def _turn_off(pod: Pod) -> None:
    try:
        netns.run_in(pod.netns, lambda: turn_tx_checksum_off(pod.attachment.ifname))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            raise  # else the pod is being deleted
