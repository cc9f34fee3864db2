# SPDX-License-Identifier: Apache-2.0
"""Call another plugin for a request: the IPAM of a config, or a main plugin below `flannel`.

The delegated plugin gets the whole environment of our call; the command alone is changed, to
DEL, where a failed ADD is undone (CNI SPEC 1.1.0, section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cni.config.ipam_config import delegated_ipam_type
from cni.config.request import CniRequest
from cni.delegate.executable import (
    decode_stdout,
    error_of,
    find_executable,
    run_executable,
    supports_version,
)
from cni.errors import DELEGATE_FAILURE, CniError, RunInClientError
from cni.result.model import CniResult
from cni.result.read import read_result

if TYPE_CHECKING:
    from cni.host import PluginHost

NEED_INTERFACE = frozenset({"dhcp"})
"""IPAM plugins that send packets through the container's interface and are known by its MAC."""


def require_callable(plugin_type: object, request: CniRequest) -> None:
    """Check, before anything is changed, that a delegated plugin can be called.

    Raises CniError (7); RunInClientError when its executable is not in our mount namespace.
    """
    if not request.call.same_mounts:
        raise RunInClientError
    find_executable(plugin_type, request.cni_path)


def callable_ipam(request: CniRequest) -> str:
    """The IPAM plugin of another's that a config names; empty: none, or none that can be called.

    Raises RunInClientError.
    """
    try:
        kind = delegated_ipam_type(request)
        if kind:
            require_callable(kind, request)
    except CniError:
        return ""
    return kind


def call_delegate(
    plugin_type: str,
    command: str,
    config: Mapping[str, Any],
    request: CniRequest,
    host: PluginHost,
) -> CniResult | None:
    """Run a plugin; returns the result of ADD, None for other commands.

    Raises CniError: the plugin's own error with its code, or 7, 11, 104.
    """
    program = find_executable(plugin_type, request.cni_path)
    environment = {**request.call.environment, "CNI_COMMAND": command}
    output = run_executable(program, plugin_type, environment, config, host)
    if output.status != 0:
        raise error_of(output, plugin_type, command)
    if command != "ADD":
        return None
    printed = decode_stdout(output, plugin_type)
    return read_result(printed, f"result of {plugin_type}", DELEGATE_FAILURE)


def add_addresses(plugin_type: str, request: CniRequest, host: PluginHost) -> CniResult:
    """ADD of an IPAM plugin with the request's config. Raises CniError."""
    result = call_delegate(plugin_type, "ADD", request.config.raw, request, host)
    if result is None or not result.ips:
        raise CniError(DELEGATE_FAILURE, f"IPAM plugin {plugin_type} gave no address")
    return result


def forward(plugin_type: str, request: CniRequest, host: PluginHost) -> None:
    """Pass GC or STATUS on, to a plugin that supports the request's version. Raises CniError."""
    require_callable(plugin_type, request)
    program = find_executable(plugin_type, request.cni_path)
    if supports_version(program, plugin_type, request.version, host):
        call_delegate(plugin_type, request.command, request.config.raw, request, host)
