# SPDX-License-Identifier: Apache-2.0
"""Attach pods to networks: ADD, DEL, CHECK and GC of lists of plugins (CNI SPEC 1.1.0).

An attachment is on disk before its ADD, so a DEL follows whatever happens in between. Calls for
one pod are one after the other, those of different pods at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scheduler.runtime.cni import plugin
from scheduler.runtime.cni.attachments import Attachment, AttachmentCache
from scheduler.runtime.cni.conflist import NetworkConfig, choose, load, parse, version_numbers
from scheduler.runtime.errors import NetworkError
from scheduler.runtime.protocol import PodConfig

log = logging.getLogger(__name__)
PARALLEL = 8  # plugins at a time; more only wait for each other
PREVIOUS_RESULT_ON_DEL = (0, 4, 0)
GC_SINCE = (1, 1, 0)


class Networks:
    """The networks of one node."""

    def __init__(self, conf_dir: Path, bin_dirs: Sequence[Path], cache_dir: Path) -> None:
        self.conf_dir, self.bin_dirs = conf_dir, tuple(bin_dirs)
        self.cache = AttachmentCache(cache_dir)
        self._parallel = asyncio.Semaphore(PARALLEL)

    async def attach(self, pod: PodConfig, netns: str) -> list[Attachment]:
        """Attach a pod to its networks, or to none of them; raises NetworkError."""
        configs = choose(self.conf_dir, pod.networks)
        wanted = capability_args(pod)
        for name in wanted:
            if not any(c.has_capability(name) for c in configs):
                raise NetworkError(
                    f"network {configs[0].name!r} publishes no ports of the host: add the plugin "
                    f'{{"type": "portmap", "capabilities": {{"{name}": true}}}} to its conflist'
                )
        arguments = (
            f"IgnoreUnknown=1;K8S_POD_NAMESPACE=flatmesh-scheduler;"
            f"K8S_POD_NAME={re.sub(r'[;=]', '-', pod.name)};K8S_POD_INFRA_CONTAINER_ID={pod.id}"
        )
        done: list[Attachment] = []
        try:
            for number, config in enumerate(configs):
                args = {k: v for k, v in wanted.items() if config.has_capability(k)}
                for name in args:
                    wanted.pop(name)  # a port leads to one address
                attachment = Attachment(
                    config.name,
                    pod.id,
                    f"eth{number}",
                    config.as_json(),
                    args,
                    arguments,
                    netns,
                    None,
                )
                self.cache.write(attachment)
                done.append(attachment)
                attachment = replace(attachment, result=await self._add(config, attachment))
                self.cache.write(attachment)
                done[-1] = attachment
        except BaseException:
            for attachment in reversed(done):
                with contextlib.suppress(NetworkError):
                    await self._detach(attachment)
            raise
        return done

    async def detach(self, pod_id: str) -> None:
        """DEL of all that a pod has, the last first; raises NetworkError once all were tried."""
        problem: NetworkError | None = None
        for attachment in reversed(self.cache.list(pod_id)):
            try:
                await self._detach(attachment)
            except NetworkError as error:
                problem = error
        if problem is not None:
            raise problem

    async def check(self, pod_id: str) -> None:
        """CHECK of all that a pod has; raises NetworkError for the first that is not as added."""
        for attachment in self.cache.list(pod_id):
            config = _config(attachment)
            if not config.check or version_numbers(config.version) < PREVIOUS_RESULT_ON_DEL:
                continue
            for part in config.plugins:
                request = config.request(part, attachment.capability_args, attachment.result)
                await self._call("CHECK", request, _variables(attachment))

    async def collect_garbage(self, valid: Collection[str]) -> None:
        """Remove the attachments of all pods but these: DEL of what we know, GC for the rest."""
        kept: list[Attachment] = []
        for attachment in self.cache.list():
            if attachment.pod_id in valid:
                kept.append(attachment)
                continue
            try:
                await self._detach(attachment)
            except NetworkError as error:
                log.warning("garbage of pod %s: %s", attachment.pod_id, error)
        found, problems = load(self.conf_dir)
        for problem in problems:
            log.warning("%s", problem)
        for config in found.values():
            if not config.gc or version_numbers(config.version) < GC_SINCE:
                continue
            attachments = [
                {"containerID": a.pod_id, "ifname": a.interface}
                for a in kept
                if a.network == config.name
            ]
            for part in config.plugins:
                request = config.request(part, {}, None, {"cni.dev/valid-attachments": attachments})
                try:
                    await self._call("GC", request, {})
                except NetworkError as error:
                    log.warning("network %s: %s", config.name, error)

    async def _add(self, config: NetworkConfig, attachment: Attachment) -> dict[str, Any]:
        result: dict[str, Any] | None = None
        for part in config.plugins:
            request = config.request(part, attachment.capability_args, result)
            result = await self._call("ADD", request, _variables(attachment))
        return result or {}

    async def _detach(self, attachment: Attachment) -> None:
        config = _config(attachment)
        known = version_numbers(config.version) >= PREVIOUS_RESULT_ON_DEL
        previous = attachment.result if known else None
        variables = _variables(attachment)
        if not os.path.exists(attachment.netns):  # noqa: ASYNC240, PTH110 # procfs answers at once
            variables["CNI_NETNS"] = ""
        for part in reversed(config.plugins):
            request = config.request(part, attachment.capability_args, previous)
            await self._call("DEL", request, variables)
        self.cache.remove(attachment)

    async def _call(
        self, command: str, request: Mapping[str, Any], variables: Mapping[str, str]
    ) -> dict[str, Any]:
        async with self._parallel:
            return await plugin.call(command, request, variables, self.bin_dirs)


def capability_args(pod: PodConfig) -> dict[str, Any]:
    """Arguments for plugins that declare the capability."""
    if not pod.ports:
        return {}
    return {
        "portMappings": [
            {
                "hostPort": port.host_port,
                "containerPort": port.container_port,
                "protocol": port.protocol,
            }
            for port in pod.ports
        ]
    }


def _config(attachment: Attachment) -> NetworkConfig:
    return parse(json.dumps(attachment.config), f"the cached network {attachment.network!r}")


def _variables(attachment: Attachment) -> dict[str, str]:
    return {
        "CNI_CONTAINERID": attachment.pod_id,
        "CNI_NETNS": attachment.netns,
        "CNI_IFNAME": attachment.interface,
        "CNI_ARGS": attachment.arguments,
    }
