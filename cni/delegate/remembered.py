# SPDX-License-Identifier: Apache-2.0
"""What is kept of a delegated plugin's ADD, and its DEL made from that.

GC and the sweep at a daemon's start get no config of the attachment from the runtime, so the
record of the attachment holds it as JSON:

    {"type": "host-local", "conf": {...}, "environment": {"CNI_PATH": ..., "CNI_ARGS": ...}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cni.config.call import AttachmentKey, CniCall
from cni.config.request import CniRequest, parse_request
from cni.delegate.run import call_delegate

if TYPE_CHECKING:
    from cni.host import PluginHost

KEPT_VARIABLES = ("CNI_PATH", "CNI_ARGS", "PATH")


def to_remember(plugin_type: str, request: CniRequest) -> dict[str, Any]:
    """What a later DEL needs of this ADD."""
    config = {key: value for key, value in request.config.raw.items() if key != "prevResult"}
    environment = request.call.environment
    return {
        "type": plugin_type,
        "conf": config,
        "environment": {name: environment[name] for name in KEPT_VARIABLES if name in environment},
    }


def delete_remembered(remembered: Mapping[str, Any], key: AttachmentKey, host: PluginHost) -> None:
    """Call a plugin's DEL with what `to_remember` kept. Raises CniError."""
    plugin_type = remembered["type"]
    request = delete_request(plugin_type, remembered["conf"], remembered["environment"], key)
    call_delegate(plugin_type, "DEL", request.config.raw, request, host)


def delete_request(
    plugin_type: str, config: Mapping[str, Any], environment: Mapping[str, str], key: AttachmentKey
) -> CniRequest:
    """The DEL of an attachment that the runtime did not ask for. Raises CniError."""
    variables = {
        **environment,
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": key.container_id,
        "CNI_NETNS": "",
        "CNI_IFNAME": key.ifname,
    }
    return parse_request(CniCall(plugin_type, variables, json.dumps(config).encode()))
