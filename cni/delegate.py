"""Run another plugin: the IPAM of a config, or the main plugin under the `flannel` alias.

A delegated plugin gets the whole environment of the call (with the command changed where a
failed ADD is undone by a DEL), finds its config on stdin, and is looked for on CNI_PATH by
its `type` (CNI SPEC 1.1.0, section 4).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cni.errors import (
    DELEGATE_FAILURE,
    INVALID_CONFIG,
    TRY_AGAIN_LATER,
    CniError,
    RunInClientError,
)
from cni.request import Call
from cni.request import parse as parse_request
from cni.result import Result
from cni.result import parse as parse_result

if TYPE_CHECKING:
    import subprocess

    from cni.host import Host
    from cni.request import Request

NEED_INTERFACE = frozenset({"dhcp"})
"""IPAM plugins that talk through the container's interface, and are known there by its MAC."""
DEADLINE = 60.0  # seconds; a dhcp lease may take 30
MAX_SHOWN = 500  # characters of a delegate's stderr in our message


def find(plugin_type: object, request: Request) -> str:
    """The executable of a `type` on CNI_PATH. Raises CniError (7)."""
    if not isinstance(plugin_type, str) or not plugin_type:
        raise CniError(INVALID_CONFIG, f"delegated plugin: type {plugin_type!r} is no name")
    if "/" in plugin_type or plugin_type in (".", ".."):
        raise CniError(INVALID_CONFIG, f"delegated plugin: type {plugin_type!r} must be no path")
    for directory in request.path:
        candidate = Path(directory, plugin_type)
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    where = ", ".join(request.path) or "nowhere: CNI_PATH is empty"
    raise CniError(
        INVALID_CONFIG,
        f"failed to find plugin {plugin_type!r} in {where}: install it there, or correct `type`",
    )


def prepare(plugin_type: object, request: Request) -> None:
    """Find out, before anything is touched, that the delegate can be called.

    Raises CniError (7); RunInClientError when its files are not in our mount namespace.
    """
    if not request.call.same_mounts:
        raise RunInClientError
    find(plugin_type, request)


def call(
    plugin_type: str,
    command: str,
    conf: Mapping[str, Any],
    request: Request,
    host: Host,
) -> Result | None:
    """Run a delegate; its result on ADD. Raises CniError: its own error, its code kept."""
    environment = {**request.call.environment, "CNI_COMMAND": command}
    stdin = json.dumps(conf).encode()
    program = find(plugin_type, request)
    import subprocess  # noqa: PLC0415 - 6 ms, for delegates alone

    try:
        with host.turns.given_up():
            done = subprocess.run(
                [program],
                input=stdin,
                env=environment,
                capture_output=True,
                timeout=DEADLINE,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise CniError(
            TRY_AGAIN_LATER, f"plugin {plugin_type} did not end in {DEADLINE:.0f} s on {command}"
        ) from None
    except OSError as error:
        raise CniError(DELEGATE_FAILURE, f"plugin {program}: {error.strerror}") from None
    if done.returncode != 0:
        raise _its_error(plugin_type, command, done)
    if command != "ADD":
        return None
    return parse_result(
        _json(done.stdout, f"plugin {plugin_type}"), f"result of {plugin_type}", DELEGATE_FAILURE
    )


def add_addresses(plugin_type: str, request: Request, host: Host) -> Result:
    """ADD of an IPAM plugin with the request's config. Raises CniError."""
    result = call(plugin_type, "ADD", request.conf, request, host)
    if result is None or not result.ips:
        raise CniError(DELEGATE_FAILURE, f"IPAM plugin {plugin_type} gave no address")
    return result


def forward(plugin_type: str, request: Request, host: Host) -> None:
    """GC or STATUS to a delegate, if it is new enough to know the command. Raises CniError."""
    prepare(plugin_type, request)
    if _speaks(find(plugin_type, request), request.version):
        call(plugin_type, request.command, request.conf, request, host)


def _speaks(program: str, version: str) -> bool:
    """Whether a plugin's VERSION lists a version; no is assumed of one that doesn't answer."""
    import subprocess  # noqa: PLC0415

    try:
        done = subprocess.run(
            [program],
            input=json.dumps({"cniVersion": version}).encode(),
            env={**os.environ, "CNI_COMMAND": "VERSION"},
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
        return version in json.loads(done.stdout)["supportedVersions"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return False


def to_remember(plugin_type: str, request: Request) -> dict[str, Any]:
    """What a later DEL needs that the runtime may not give: GC, a sweep."""
    conf = {key: value for key, value in request.conf.items() if key != "prevResult"}
    environment = request.call.environment
    kept = ("CNI_PATH", "CNI_ARGS", "PATH")
    return {
        "type": plugin_type,
        "conf": conf,
        "environment": {name: environment[name] for name in kept if name in environment},
    }


def undo(remembered: Mapping[str, Any], key: tuple[str, str, str], host: Host) -> None:
    """DEL of a delegate, from what `to_remember` kept. Raises CniError."""
    _, container_id, ifname = key
    environment = {
        **remembered["environment"],
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": "",
        "CNI_IFNAME": ifname,
    }
    conf = remembered["conf"]
    request = parse_request(Call(remembered["type"], environment, json.dumps(conf).encode()))
    call(remembered["type"], "DEL", conf, request, host)


def _json(text: bytes, who: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CniError(DELEGATE_FAILURE, f"{who} printed no JSON: {error}") from None


def _its_error(
    plugin_type: str, command: str, done: subprocess.CompletedProcess[bytes]
) -> CniError:
    """The delegate's error object, or what it said instead of one."""
    try:
        error = json.loads(done.stdout)
        code, message = error["code"], error["msg"]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.decode(errors="replace").strip()[-MAX_SHOWN:]
        status = done.returncode
        how = f"ended with status {status}" if status > 0 else f"was killed by signal {-status}"
        reason = f": {' '.join(said.split())}" if said else ""
        return CniError(DELEGATE_FAILURE, f"plugin {plugin_type} {how} on {command}{reason}")
    details = error.get("details")
    return CniError(
        code if isinstance(code, int) and code > 0 else DELEGATE_FAILURE,
        f"plugin {plugin_type}: {message}",
        details if isinstance(details, str) else "",
    )
