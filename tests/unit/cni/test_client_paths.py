# SPDX-License-Identifier: Apache-2.0
"""The clients import nothing of ours, so paths and limits stand in them a second time."""

from __future__ import annotations

from pathlib import Path

import pytest

from base.paths import CNI_SOCKET, RUN_DIR
from cni.config.request import MAX_STDIN
from cni.socket import protocol

SOCKET = Path(protocol.__file__).parent


@pytest.mark.parametrize("client", ["client.c", "client.py"])
def test_a_client_has_the_paths_and_numbers_of_the_daemon(client: str) -> None:
    text = (SOCKET / client).read_text()
    assert f'"{RUN_DIR}"' in text
    assert f"/{CNI_SOCKET}" in text
    assert MAX_STDIN == 16 << 20
    assert "16u << 20" in text or "16 << 20" in text
    assert str(protocol.RUN_IT_YOURSELF) in text
    for magic in (protocol.REQUEST_MAGIC, protocol.ANSWER_MAGIC):
        assert magic.decode() in text
