# SPDX-License-Identifier: Apache-2.0
"""`flannel`: a drop-in for the flannel meta-plugin; existing conflists work unchanged.

    {"name": "cbr0", "cniVersion": "0.3.1", "type": "flannel",
     "subnetFile": "/run/flannel/subnet.env", "dataDir": "/var/lib/cni/flannel",
     "ipam": {...}, "delegate": {"hairpinMode": true, "isDefaultGateway": true}}

It completes the `delegate` section from the lease and calls that plugin: `bridge` unless the
section names another, found on CNI_PATH. Where `bridge` is not installed, or the section says
`"type": "flatmesh"`, our own plugin is called within this process.

Addresses are from our own store (`flatmesh-ipam`) where the real meta-plugin calls host-local: two
stores would give one address of the lease to two pods. A pod that the real meta-plugin attached is
detached by the plugins which attached it, as its state file says; until then our store does not
give its address (`ipam.host_local`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cni.address_pool import read_subnet_env
from cni.attachment.lock import hold_lock, hold_lock_if_possible
from cni.config.call import AttachmentKey
from cni.config.flannel_config import parse_flannel_config, previous_as_given
from cni.config.ipam_config import OWN_IPAM
from cni.config.request import CniRequest, parse_request
from cni.delegate.remembered import delete_remembered, delete_request, to_remember
from cni.delegate.run import call_delegate, require_callable
from cni.errors import IO_FAILURE, CniError
from cni.flannel_alias.delegate_config import OWN_BRIDGE, delegate_config
from cni.flannel_alias.one_gateway import require_one_gateway
from cni.flannel_alias.state_files import (
    own_state_files,
    read_state,
    state_path,
    state_path_of_delete,
    write_state,
)
from cni.host import PluginHost
from cni.plugin import Plugin, run_command
from cni.result.model import CniResult

PLUGIN = "flannel"
REFERENCE_BRIDGE = "cni0"
"""What the reference bridge plugin calls its bridge."""


def add(request: CniRequest, host: PluginHost) -> CniResult:
    """Attach the container by the delegate. Raises CniError."""
    config = _delegate_config(request, host)
    _require_callable(config["type"], request)
    if config["type"] == "bridge":
        require_one_gateway(request, host, str(config.get("bridge") or REFERENCE_BRIDGE))
    key = request.attachment
    with hold_lock(host, PLUGIN, key):
        path = state_path(request, key)
        write_state(path, config, key)
        config |= previous_as_given(request)
        try:
            result = _call("ADD", config, request, host)
        except CniError:
            # the delegate's DEL removes what its ADD left; if that fails now, the state file
            # stays, and the runtime's DEL tries again
            with contextlib.suppress(CniError):
                _call("DEL", config, request, host)
                path.unlink(missing_ok=True)
            raise
    return result or CniResult()


def delete(request: CniRequest, host: PluginHost) -> None:
    """Detach the container by the delegate, with the config of its ADD. Raises CniError."""
    key = request.attachment
    with hold_lock_if_possible(host, PLUGIN, key):
        path = state_path_of_delete(request, key)
        config = _state_or_config(path, request, host)
        if config is None:
            return
        config |= previous_as_given(request)
        _require_callable(config.get("type"), request)
        _call("DEL", config, request, host)
        with contextlib.suppress(OSError):  # read-only: another DEL of it does no harm
            path.unlink(missing_ok=True)


def check(request: CniRequest, host: PluginHost) -> None:
    """CHECK by the delegate. Raises CniError."""
    key = request.attachment
    config = read_state(state_path(request, key))
    if config is None:
        raise CniError(IO_FAILURE, f"CHECK: nothing is kept of container {key.container_id}")
    config |= previous_as_given(request)
    _require_callable(config.get("type"), request)
    _call("CHECK", config, request, host)


def gc(request: CniRequest, host: PluginHost) -> None:
    """Detach what the runtime does not list as valid, each as DEL would. Raises CniError.

    Goes on past errors and reports all of them.
    """
    valid = request.valid_attachments()
    errors = []
    for path, key in own_state_files(request):
        other_network = key.network != request.attachment.network
        if other_network or (key.container_id, key.ifname) in valid:
            continue
        try:
            with hold_lock(host, PLUGIN, key):
                config = read_state(path)
                if config is not None:
                    _delete_unlisted(config, request, key, host)
                    path.unlink(missing_ok=True)
        except (CniError, OSError) as error:
            errors.append(f"{key.container_id} {key.ifname}: {error}")
    if errors:
        network = request.attachment.network
        raise CniError(IO_FAILURE, f"GC of {network}: {'; '.join(errors)}")


def status(request: CniRequest, host: PluginHost) -> None:
    """Raise CniError (50, 51, 7) when an ADD could not be served."""
    host.require_healthy()
    config = _delegate_config(request, host)
    _require_callable(config["type"], request)
    if config["type"] == OWN_BRIDGE:
        _call("STATUS", config, request, host)


def _delegate_config(request: CniRequest, host: PluginHost) -> dict[str, Any]:
    config = parse_flannel_config(request)
    env = read_subnet_env(config.subnet_file or host.subnet_file)
    return delegate_config(
        config,
        env,
        own_bridge=not _is_installed("bridge", request),
        own_ipam=_is_installed(OWN_IPAM, request),
    )


def _state_or_config(path: Path, request: CniRequest, host: PluginHost) -> dict[str, Any] | None:
    """The delegate's config of a DEL; where the file is damaged, what the call's config says.

    Raises CniError (5) where neither can be read.
    """
    try:
        return read_state(path)
    except CniError as damage:
        with contextlib.suppress(CniError):
            return _delegate_config(request, host)
        raise damage from None


def _is_installed(name: str, request: CniRequest) -> bool:
    return any(os.access(Path(directory, name), os.X_OK) for directory in request.cni_path)


def _require_callable(kind: object, request: CniRequest) -> None:
    if kind != OWN_BRIDGE:
        require_callable(kind, request)


def _call(
    command: str, config: Mapping[str, Any], request: CniRequest, host: PluginHost
) -> CniResult | None:
    """Call the delegate: our own plugin within this process, any other as an executable."""
    if config["type"] != OWN_BRIDGE:
        return call_delegate(config["type"], command, config, request, host)
    environment = {**request.call.environment, "CNI_COMMAND": command}
    stdin = json.dumps(config).encode()
    call = request.call._replace(plugin=OWN_BRIDGE, environment=environment, stdin=stdin)
    return run_command(_own_bridge(), parse_request(call), host)


def _delete_unlisted(
    config: Mapping[str, Any], request: CniRequest, key: AttachmentKey, host: PluginHost
) -> None:
    """DEL of the delegate for an attachment that the runtime's GC does not list."""
    remembered = to_remember(config["type"], request)
    if config["type"] == OWN_BRIDGE:
        inner = delete_request(OWN_BRIDGE, config, remembered["environment"], key)
        run_command(_own_bridge(), inner, host)
    else:
        delete_remembered({**remembered, "conf": config}, key, host)


def _own_bridge() -> Plugin:
    from cni.pod import plugin  # noqa: PLC0415 - 15 ms, which other delegates need not pay

    return plugin
