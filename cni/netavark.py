# SPDX-License-Identifier: Apache-2.0
"""The network driver `flatmesh` for podman with netavark, which calls no CNI plugin.

    podman network create --driver flatmesh flat
    podman run --network flat ...

netavark runs the executable that has the driver's name, in one of its plugin directories, with
`create`, `setup NETNS`, `teardown NETNS` or `info`, and JSON on stdin. Here that becomes a call of
the CNI executable `flatmesh`: so containers have what pods have, and one daemon serves both.
Source: netavark, plugin-API.md (API 1.0.0).

    python -I -m cni.netavark install /usr/local/libexec/netavark
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from base.errors import FlatmeshError, one_line
from base.fields import Fields
from base.paths import CNI_BIN_DIR

NAME = "flatmesh"
API_VERSION = "1.0.0"
CNI_VERSION = "1.0.0"
CALL_TIMEOUT = 60.0  # seconds
MAX_STDIN = 4 << 20  # bytes
BIN_DIR_VARIABLE = "FLATMESH_CNI_BIN_DIR"
LAUNCHER = """#!/bin/sh
exec {python} -I -m cni.netavark "$@"
"""


class NetavarkError(FlatmeshError):
    """What podman's user is told, in one line."""


def create(network: Mapping[str, Any]) -> dict[str, Any]:
    """The network as podman shall keep it. Raises NetavarkError for what can't be had."""
    fields = Fields(network, "", NetavarkError)
    if fields.value("subnets"):
        raise NetavarkError("--subnet: addresses are of this host's lease; leave it out")
    if fields.flag("internal", default=False):
        raise NetavarkError("--internal: the flat network reaches every pod; leave it out")
    if fields.value("options"):
        raise NetavarkError("--opt: this driver has no options; leave it out")
    return {**network, "ipam_options": {"driver": "none"}, "dns_enabled": False}


def cni_call(command: str, netns: str, asked: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """The variables and the config of the CNI call for a setup or teardown. Pure.

    Raises NetavarkError.
    """
    fields = Fields(asked, "", NetavarkError)
    network, options = _object(asked, "network"), _object(asked, "network_options")
    if command == "ADD" and fields.value("port_mappings"):
        raise NetavarkError(
            "--publish: on this network a container is reached by its own address, with every "
            "port; leave it out"
        )
    runtime: dict[str, Any] = {}
    if options.get("static_ips"):
        runtime["ips"] = [str(one) for one in options["static_ips"]]
    if options.get("static_mac"):
        runtime["mac"] = str(options["static_mac"])
    config = {
        "cniVersion": CNI_VERSION,
        "name": str(network.get("name", "")),
        "type": NAME,
        "hairpinMode": True,
        "capabilities": {"ips": True, "mac": True},
        **({"runtimeConfig": runtime} if runtime else {}),
    }
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": str(fields.value("container_id") or ""),
        "CNI_NETNS": netns,
        "CNI_IFNAME": str(options.get("interface_name", "")),
        "CNI_PATH": os.environ.get(BIN_DIR_VARIABLE, CNI_BIN_DIR),
    }
    return variables, json.dumps(config)


def status(result: Mapping[str, Any], interface: str) -> dict[str, Any]:
    """What podman shows of the container's interface, from a CNI result. Pure."""
    ours = [one for one in result.get("interfaces", ()) if one.get("name") == interface]
    subnets = [
        {"ipnet": one["address"], **({"gateway": one["gateway"]} if one.get("gateway") else {})}
        for one in result.get("ips", ())
    ]
    mac = ours[-1]["mac"] if ours else ""
    return {
        "dns_search_domains": [],
        "dns_server_ips": [],
        "interfaces": {interface: {"mac_address": mac, "subnets": subnets}},
    }


def call_plugin(variables: Mapping[str, str], config: str) -> dict[str, Any]:
    """Call the CNI executable; returns its result. Raises NetavarkError with what it says."""
    program = Path(variables["CNI_PATH"]) / NAME
    try:
        done = subprocess.run(
            [str(program)],
            env={**os.environ, **variables},
            input=config,
            capture_output=True,
            text=True,
            timeout=CALL_TIMEOUT,
            check=False,
        )
        answer = json.loads(done.stdout or "{}")
    except OSError as error:
        mend = f"install flatmesh, or name its directory in {BIN_DIR_VARIABLE}"
        raise NetavarkError(f"{program}: {error.strerror}; {mend}") from None
    except subprocess.TimeoutExpired:
        raise NetavarkError(f"{program} has not ended within {CALL_TIMEOUT:.0f} s") from None
    except ValueError:
        raise NetavarkError(f"{program} prints no JSON: {done.stdout[:200]!r}") from None
    if done.returncode:
        details = answer.get("msg") or answer.get("details") or done.stderr.strip()[:300]
        raise NetavarkError(f"flatmesh: {details} (code {answer.get('code', '?')})")
    return dict(answer)


def answer(arguments: list[str], stdin: str) -> str:
    """What one call prints. Raises NetavarkError."""
    action = arguments[0] if arguments else ""
    if action == "info":
        return json.dumps({"version": API_VERSION, "api_version": API_VERSION})
    if action not in ("create", "setup", "teardown") or len(arguments) != 1 + (action != "create"):
        raise NetavarkError("use: flatmesh create | setup NETNS | teardown NETNS | info")
    try:
        asked = json.loads(stdin)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise NetavarkError("stdin is no JSON object")
    if action == "create":
        return json.dumps(create(asked))
    variables, config = cni_call("ADD" if action == "setup" else "DEL", arguments[1], asked)
    result = call_plugin(variables, config)
    return json.dumps(status(result, variables["CNI_IFNAME"])) if action == "setup" else ""


def install(directory: Path, python: str = sys.executable) -> Path:
    """Write the executable; returns its path. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    target, new = directory / NAME, directory / f".{NAME}.new"
    new.write_text(LAUNCHER.format(python=python))
    new.chmod(0o755)
    new.rename(target)
    return target


def _object(asked: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = asked.get(name)
    if not isinstance(found, dict):
        raise NetavarkError(f"{name} is no JSON object")
    return found


def main() -> int:
    """Answer one call; returns the exit status."""
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["install"] and len(arguments) == 2:
            print(install(Path(arguments[1])))
            return 0
        stdin = "" if arguments[:1] == ["info"] else sys.stdin.read(MAX_STDIN)
        print(answer(arguments, stdin))
    except (FlatmeshError, OSError) as error:
        print(json.dumps({"error": one_line(error)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
