# SPDX-License-Identifier: Apache-2.0
"""Call CNI plugins as a container runtime does.

A conflist is a chain: on ADD each plugin gets the result of the one before as `prevResult`,
the last result is the attachment's and the runtime keeps it; CHECK gives every plugin the
kept result; DEL calls the plugins with it in reverse order. Requests go as JSON on stdin and CNI_*
variables, answers come on stdout (CNI SPEC 1.1.0, sections 2 and 3).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from base.errors import FlatmeshError
from lab.time_factor import scaled

DEADLINE = 60.0  # seconds; kubelet gives a sandbox two minutes for the whole chain


class PluginError(FlatmeshError):
    """A plugin failed; `code` and `message` are those of its error object."""

    def __init__(self, plugin: str, command: str, code: int, message: str) -> None:
        super().__init__(f"{plugin} {command}: {message} (code {code})")
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class PodInterface:
    """One interface of one container."""

    container_id: str
    netns: str
    ifname: str = "eth0"
    args: str = ""
    """CNI_ARGS: `K=V;K=V`."""
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    """runtimeConfig by capability name."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where a host's plugins are, and the environment they run in."""

    path: tuple[Path, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    enter: tuple[str, ...] = ()
    """Command prefix that puts a plugin on its host, e.g. `nsenter --net=...`."""

    def call(
        self, conf: Mapping[str, Any], command: str, interface: PodInterface | None
    ) -> dict[str, Any] | None:
        """Run one plugin once; returns its result, None when it prints none.

        Raises PluginError for an error object, and for an answer that is no JSON.
        """
        plugin = str(conf["type"])
        program = next((d / plugin for d in self.path if (d / plugin).exists()), None)
        if program is None:
            raise PluginError(plugin, command, 0, f"not found in {', '.join(map(str, self.path))}")
        done = subprocess.run(
            [*self.enter, str(program)],
            input=json.dumps(conf).encode(),
            env={**self.environment, **self._variables(command, interface)},
            capture_output=True,
            timeout=scaled(DEADLINE),
            check=False,
        )
        try:
            answer = json.loads(done.stdout) if done.stdout.strip() else None
        except ValueError:
            raise PluginError(plugin, command, 0, f"prints no JSON: {done.stdout!r}") from None
        if done.returncode:
            error = answer or {}
            message = error.get("msg") or done.stderr.decode(errors="replace").strip()
            raise PluginError(plugin, command, error.get("code", 0), message)
        return answer if isinstance(answer, dict) else None

    def add(self, conflist: Mapping[str, Any], interface: PodInterface) -> dict[str, Any]:
        """ADD along the chain; returns the last result."""
        result: dict[str, Any] | None = None
        for conf in plugin_configs(conflist, interface):
            result = self.call(_with(conf, result), "ADD", interface)
        return result or {}

    def check(
        self, conflist: Mapping[str, Any], interface: PodInterface, result: Mapping[str, Any]
    ) -> None:
        """CHECK along the chain."""
        for conf in plugin_configs(conflist, interface):
            self.call(_with(conf, result), "CHECK", interface)

    def delete(
        self,
        conflist: Mapping[str, Any],
        interface: PodInterface,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """DEL along the chain, last plugin first."""
        for conf in reversed(plugin_configs(conflist, interface)):
            self.call(_with(conf, result), "DEL", interface)

    def _variables(self, command: str, interface: PodInterface | None) -> dict[str, str]:
        variables = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "CNI_COMMAND": command,
            "CNI_PATH": ":".join(map(str, self.path)),
        }
        if interface is not None:
            variables |= {
                "CNI_CONTAINERID": interface.container_id,
                "CNI_NETNS": interface.netns,
                "CNI_IFNAME": interface.ifname,
            }
            if interface.args:
                variables["CNI_ARGS"] = interface.args
        return variables


def plugin_configs(
    conflist: Mapping[str, Any], interface: PodInterface | None = None
) -> list[dict[str, Any]]:
    """Each plugin's own config: name and version from the list, capabilities filled in."""
    given = interface.capabilities if interface is not None else {}
    configs = []
    for plugin in conflist["plugins"]:
        conf = dict(plugin)
        wanted = conf.pop("capabilities", {})
        runtime = {name: given[name] for name, on in wanted.items() if on and name in given}
        conf |= {"cniVersion": conflist["cniVersion"], "name": conflist["name"]}
        if runtime:
            conf["runtimeConfig"] = runtime
        configs.append(conf)
    return configs


def _with(conf: dict[str, Any], result: Mapping[str, Any] | None) -> dict[str, Any]:
    return conf if result is None else {**conf, "prevResult": dict(result)}
