# SPDX-License-Identifier: Apache-2.0
"""Calls of CRI over containerd's unix socket; it may be restarted at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import grpc

from scheduler.runtime.errors import RuntimeCallError

TIMEOUT = 60.0  # seconds; CNI plugins may take as long
PULL_TIMEOUT = 600.0  # seconds
RUNTIME, IMAGE = "RuntimeService", "ImageService"
Answer = TypeVar("Answer")


class CriConnection:
    """One channel; it reconnects by itself."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._channel: Any = None

    def open(self) -> None:
        """Connect when the first call needs it."""
        options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
        # the channel would wait up to two minutes for a containerd that is restarted
        options += [("grpc.max_reconnect_backoff_ms", 500)]
        self._channel = grpc.aio.insecure_channel(f"unix:{self.socket}", options=options)

    async def close(self) -> None:
        """Hang up."""
        if self._channel is not None:
            await self._channel.close()

    async def call(
        self,
        method: str,
        request: Any,
        answer: type[Answer],
        *,
        service: str = RUNTIME,
        seconds: float = TIMEOUT,
    ) -> Answer:
        """Do one call; waits for a containerd that is away. Raises RuntimeCallError."""
        rpc = self._channel.unary_unary(
            f"/runtime.v1.{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,  # type: ignore[attr-defined]
        )
        try:
            found: Answer = await rpc(request, timeout=seconds, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                text = f"no answer to {method} within {seconds:.0f} s"
            else:
                text = f"{method}: {error.details() or code.name}"
            raise CriError(f"containerd at {self.socket}: {text}", code.name) from None
        return found


class CriError(RuntimeCallError):
    """What containerd answered; `code` is gRPC's name of the status."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code
