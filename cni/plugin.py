# SPDX-License-Identifier: Apache-2.0
"""What every CNI plugin of this program offers: one function for each command.

A plugin is a module. `plugin_table` returns each one as a `Plugin`, so mypy refuses a module
whose function has another name or another signature. This module lies below all plugins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cni.config.request import CniRequest
    from cni.host import PluginHost
    from cni.result.model import CniResult


class Plugin(Protocol):
    """One plugin. Every function raises CniError; OSError (NetlinkError too) may pass."""

    def add(self, request: CniRequest, host: PluginHost) -> CniResult:
        """Attach the container to the network; on an error nothing is left of the attempt."""

    def delete(self, request: CniRequest, host: PluginHost) -> None:
        """Detach the container; succeeds when there is nothing to detach."""

    def check(self, request: CniRequest, host: PluginHost) -> None:
        """Raise CniError (103) when the attachment is not as ADD made it."""

    def gc(self, request: CniRequest, host: PluginHost) -> None:
        """Detach everything of this network that the runtime does not list as valid."""

    def status(self, request: CniRequest, host: PluginHost) -> None:
        """Raise CniError (50, 51) when an ADD could not be served now."""


def run_command(plugin: Plugin, request: CniRequest, host: PluginHost) -> CniResult | None:
    """Run the request's command; returns the result of ADD, None for the other commands."""
    match request.command:
        case "ADD":
            return plugin.add(request, host)
        case "DEL":
            plugin.delete(request, host)
        case "CHECK":
            plugin.check(request, host)
        case "GC":
            plugin.gc(request, host)
        case "STATUS":
            plugin.status(request, host)
    return None
