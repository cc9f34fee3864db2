# SPDX-License-Identifier: Apache-2.0
"""One call of one CNI plugin: its executable, with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scheduler.runtime.errors import NetworkError

TIMEOUT = 60.0  # seconds; a plugin that asks a DHCP server may take 30
MAX_STDERR = 500  # characters of a plugin's stderr in our message


class PluginRefusedError(NetworkError):
    """The plugin answered with an error; `code` is CNI's."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def find(plugin: str, directories: Sequence[Path]) -> str:
    """The executable of a plugin type; raises NetworkError."""
    for directory in directories:
        candidate = directory / plugin
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    where = ", ".join(map(str, directories))
    raise NetworkError(f"CNI plugin {plugin!r} is not in {where}: install it there")


async def call(
    command: str,
    config: Mapping[str, Any],
    variables: Mapping[str, str],
    directories: Sequence[Path],
) -> dict[str, Any]:
    """Run a plugin; its result, empty where it prints none. Raises NetworkError."""
    plugin = str(config["type"])
    environment = {
        **os.environ,
        **variables,
        "CNI_COMMAND": command,
        "CNI_PATH": ":".join(map(str, directories)),
    }
    program = find(plugin, directories)
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise NetworkError(f"CNI plugin {program}: {error.strerror}") from None
    try:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate(json.dumps(config).encode())
    except TimeoutError:
        raise NetworkError(
            f"CNI plugin {plugin} did not end in {TIMEOUT:.0f} s on {command}"
        ) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return _answer(plugin, command, process.returncode or 0, out, err)


def _answer(plugin: str, command: str, status: int, out: bytes, err: bytes) -> dict[str, Any]:
    try:
        data = json.loads(out) if out.strip() else {}
    except ValueError:
        data = None
    if status == 0:
        if not isinstance(data, dict):
            raise NetworkError(f"CNI plugin {plugin} printed no JSON object on {command}")
        return data
    if isinstance(data, dict) and "msg" in data:
        text = " ".join(f"{data['msg']} {data.get('details') or ''}".split())
        code = data.get("code")
        raise PluginRefusedError(
            f"CNI plugin {plugin} on {command}: {text}", code if isinstance(code, int) else 0
        )
    stderr = " ".join(err.decode(errors="replace").split())[-MAX_STDERR:]
    raise NetworkError(f"CNI plugin {plugin} ended with status {status} on {command}: {stderr}")
