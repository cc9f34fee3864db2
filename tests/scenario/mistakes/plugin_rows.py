# SPDX-License-Identifier: Apache-2.0
"""Mistakes with the CNI executables: their answer is an error of the CNI specification."""

from __future__ import annotations

import json
from typing import Any

from tests.scenario.mistakes.row import Mistake

POD = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/none",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "{bin}",
}
CONFIG = {"cniVersion": "1.0.0", "name": "pods", "type": "flatmesh"}


def call(
    what: str, expected: str, stdin: str | None = None, *, program: str = "flatmesh", **more: Any
) -> Mistake:
    """`more`: variables (upper case), the others are keys of the config."""
    variables = {**POD, **{f"CNI_{k}": v for k, v in more.items() if k.isupper()}}
    config = {**CONFIG, **{k: v for k, v in more.items() if not k.isupper()}}
    return Mistake(
        f"plugin: {what}",
        f"{{bin}}/{program}",
        expected,
        environment={k: v for k, v in variables.items() if v},
        stdin=json.dumps(config) if stdin is None else stdin,
    )


ROWS = (
    *(
        Mistake(
            f"{program} by hand",
            f"{{bin}}/{program}",
            "[CNI_COMMAND] missing: this is a CNI plugin, to be called by a container runtime",
        )
        for program in ("flatmesh", "flatmesh-ipam", "flannel")
    ),
    call("no config", "the config on stdin is no JSON: it is empty", ""),
    call("half a config", "the config on stdin is no JSON: Expecting property name", "{"),
    call("a list as config", "the config on stdin is no JSON object", "[]"),
    call("command", "unknown CNI_COMMAND: 'ADDD'; use one of ADD, CHECK, DEL", COMMAND="ADDD"),
    call("no container", "required env variables [CNI_CONTAINERID] missing", CONTAINERID=""),
    call(
        "name of the interface",
        "CNI_IFNAME 'toolonginterfacename' must have 1 to 15 characters",
        IFNAME="toolonginterfacename",
    ),
    call("version", "cniVersion '9.9.9' is not supported; use one of 0.1.0", cniVersion="9.9.9"),
    call(
        "no network name",
        "missing network name: the config has no `name`",
        '{"cniVersion":"1.0.0","type":"flatmesh"}',
    ),
    call("type of a value", 'mtu is \\"big\\"; it must be a whole number', mtu="big"),
    call(
        "plugin that is not there",
        "failed to find plugin 'host-lokal' in",
        ipam={"type": "host-lokal"},
    ),
    call("before there is a lease", "is flatmeshd running and etcd reachable?"),
    call("flannel before there is a lease", "no lease yet", program="flannel", type="flannel"),
    call("GC without a list", "an empty list would remove every", COMMAND="GC", cniVersion="1.1.0"),
    call("STATUS without a lease", "no lease yet", COMMAND="STATUS", cniVersion="1.1.0"),
)
