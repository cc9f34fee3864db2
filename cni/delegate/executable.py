# SPDX-License-Identifier: Apache-2.0
"""Find another plugin's executable and run it.

A plugin is looked for on CNI_PATH by its `type` (CNI SPEC 1.1.0, section 4), gets its config
on stdin, and prints a result or an error object.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cni.errors import DELEGATE_FAILURE, INVALID_CONFIG, TRY_AGAIN_LATER, CniError

if TYPE_CHECKING:
    from cni.host import PluginHost

DELEGATE_TIMEOUT = 60.0  # seconds; a dhcp lease may take 30
MAX_STDERR = 500  # characters of a plugin's stderr in our message


class ExecutableOutput(NamedTuple):
    """What a plugin's process left."""

    status: int
    """Exit status; negative: the signal that killed it."""
    stdout: bytes
    stderr: bytes


def find_executable(plugin_type: object, cni_path: tuple[str, ...]) -> str:
    """The path of a plugin's executable. Raises CniError (7)."""
    if not isinstance(plugin_type, str) or not plugin_type:
        raise CniError(INVALID_CONFIG, f"delegated plugin: type {plugin_type!r} is no name")
    if "/" in plugin_type or plugin_type in (".", ".."):
        raise CniError(INVALID_CONFIG, f"delegated plugin: type {plugin_type!r} must be no path")
    for directory in cni_path:
        candidate = Path(directory, plugin_type)
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    where = ", ".join(cni_path) or "nowhere: CNI_PATH is empty"
    raise CniError(
        INVALID_CONFIG,
        f"failed to find plugin {plugin_type!r} in {where}: install it there, or correct `type`",
    )


def run_executable(
    program: str,
    plugin_type: str,
    environment: Mapping[str, str],
    config: Mapping[str, Any],
    host: PluginHost,
) -> ExecutableOutput:
    """Run a plugin and wait for it, up to DELEGATE_TIMEOUT. Raises CniError (11, 104)."""
    import subprocess  # noqa: PLC0415 - 6 ms, which only calls with a delegate pay

    try:
        with host.concurrency.released():
            done = subprocess.run(
                [program],
                input=json.dumps(config).encode(),
                env=environment,
                capture_output=True,
                timeout=DELEGATE_TIMEOUT,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise CniError(
            TRY_AGAIN_LATER,
            f"plugin {plugin_type} did not end in {DELEGATE_TIMEOUT:.0f} s "
            f"on {environment.get('CNI_COMMAND')}",
        ) from None
    except OSError as error:
        raise CniError(DELEGATE_FAILURE, f"plugin {program}: {error.strerror}") from None
    return ExecutableOutput(done.returncode, done.stdout, done.stderr)


def supports_version(program: str, plugin_type: str, version: str, host: PluginHost) -> bool:
    """Whether a plugin's VERSION lists a version; one that does not answer counts as no."""
    environment = {**os.environ, "CNI_COMMAND": "VERSION"}
    try:
        output = run_executable(program, plugin_type, environment, {"cniVersion": version}, host)
        return version in json.loads(output.stdout)["supportedVersions"]
    except (CniError, ValueError, KeyError, TypeError):
        return False


def decode_stdout(output: ExecutableOutput, plugin_type: str) -> object:
    """The JSON that a plugin printed. Raises CniError (104)."""
    try:
        return json.loads(output.stdout)
    except ValueError as error:
        raise CniError(DELEGATE_FAILURE, f"plugin {plugin_type} printed no JSON: {error}") from None


def error_of(output: ExecutableOutput, plugin_type: str, command: str) -> CniError:
    """The error object that a plugin printed, its code kept; else its exit status and stderr."""
    try:
        error = json.loads(output.stdout)
        code, message = error["code"], error["msg"]
    except (ValueError, KeyError, TypeError):
        stderr = output.stderr.decode(errors="replace").strip()[-MAX_STDERR:]
        status = output.status
        how = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
        reason = f": {' '.join(stderr.split())}" if stderr else ""
        return CniError(DELEGATE_FAILURE, f"plugin {plugin_type} {how} on {command}{reason}")
    details = error.get("details")
    return CniError(
        code if isinstance(code, int) and code > 0 else DELEGATE_FAILURE,
        f"plugin {plugin_type}: {message}",
        details if isinstance(details, str) else "",
    )
