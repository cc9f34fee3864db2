# SPDX-License-Identifier: Apache-2.0
"""Log lines: one per event, `key=value` for people and grep, JSON for collectors."""

from __future__ import annotations

import json
import logging
import sys
import time

LEVELS = ("debug", "info", "warning", "error")


class LineFormatter(logging.Formatter):
    """`time=2026-01-31T12:00:00.123Z level=info component=agent msg="..."`, or the same as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "component": record.name,
            "msg": record.getMessage(),
        }
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        if self.as_json:
            return json.dumps(fields)
        # json.dumps quotes and escapes exactly what would break a line or its fields
        return " ".join(
            f"{key}={json.dumps(value) if key in ('msg', 'trace') else value}"
            for key, value in fields.items()
        )


def set_up(level: str, *, as_json: bool) -> None:
    """Log everything of ours from `level` on to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(as_json=as_json))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("pyroute2", "grpc", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
