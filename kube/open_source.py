# SPDX-License-Identifier: Apache-2.0
"""Opens the lease source that flanneld's flags for Kubernetes ask for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

from kube.access import find_access
from kube.annotations import annotation_names
from kube.client import KubeClient
from kube.errors import KubeError, KubeSettingsError
from kube.node_source import NodeLeaseSource
from kube.settings import KubeSettings


@contextlib.asynccontextmanager
async def node_source(
    settings: KubeSettings, environ: Mapping[str, str]
) -> AsyncIterator[NodeLeaseSource]:
    """The lease source, inside the block. Raises KubeError."""
    names = annotation_names(settings.annotation_prefix)
    client = KubeClient(find_access(settings.api_url, settings.kubeconfig, environ))
    try:
        yield NodeLeaseSource(
            client,
            await node_name(client, environ),
            names,
            settings.net_config_path,
            settings.set_network_unavailable,
        )
    finally:
        await client.close()


async def node_name(client: KubeClient, environ: Mapping[str, str]) -> str:
    """This host's Node: NODE_NAME, else the one that this pod runs on. Raises KubeError."""
    if environ.get("NODE_NAME"):
        return environ["NODE_NAME"]
    pod, namespace = environ.get("POD_NAME"), environ.get("POD_NAMESPACE")
    if not pod or not namespace:
        raise KubeSettingsError(
            "which node is this? Set NODE_NAME, or POD_NAME and POD_NAMESPACE in a pod"
        )
    found = await client.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")
    spec = found.get("spec")
    name = spec.get("nodeName") if isinstance(spec, dict) else None
    if not isinstance(name, str) or not name:
        raise KubeError(f"pod {namespace}/{pod} names no node")
    return name
