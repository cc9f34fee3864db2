# SPDX-License-Identifier: Apache-2.0
"""The count of datagrams that other tests rely on loses none by itself."""

from __future__ import annotations

import subprocess
import time

import pytest

from lab import watched_stream
from lab.spec import LabPod


def test_the_last_datagram_is_counted_at_both_ends(
    netns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fast as can be, so that a stream ends while a datagram is being sent."""
    monkeypatch.setattr(watched_stream, "SEND_INTERVAL", 0.0)
    monkeypatch.setattr(watched_stream, "SILENCE_TIMEOUT", 0.05)
    subprocess.run(["ip", "-n", netns, "link", "set", "lo", "up"], check=True)
    pod = LabPod(1, "p1", netns, {"ips": [{"address": "127.0.0.1/8"}]})
    for _ in range(30):
        with watched_stream.watched_stream(pod, pod) as stream:
            time.sleep(0.02)
        assert stream.sent
        assert stream.lost == 0
