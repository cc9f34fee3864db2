# SPDX-License-Identifier: Apache-2.0
"""What flanneld's flags for Kubernetes say. Imports no HTTP client: every daemon reads this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_PREFIX = "flannel.alpha.coreos.com"
"""Of the annotations."""
NET_CONFIG = Path("/etc/kube-flannel/net-conf.json")


@dataclass(frozen=True, slots=True)
class KubeSettings:
    """How this host takes part in a cluster of Kubernetes."""

    api_url: str = ""
    kubeconfig: str = ""
    annotation_prefix: str = DEFAULT_PREFIX
    net_config_path: Path = NET_CONFIG
    set_network_unavailable: bool = True
