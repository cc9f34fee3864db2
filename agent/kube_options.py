# SPDX-License-Identifier: Apache-2.0
"""Flanneld's flags for Kubernetes: leases are its Nodes' annotations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from agent.settings import boolean
from kube.settings import DEFAULT_PREFIX, NET_CONFIG, KubeSettings

Command = TypeVar("Command", bound=Callable[..., Any])


def kube_options(command: Command) -> Command:
    """Add the flags to the daemon's command; `take_kube_settings` reads them."""
    for option in reversed(
        (
            boolean(
                "--kube-subnet-mgr",
                envvar="FLANNELD_KUBE_SUBNET_MGR",
                help="Take subnets from Kubernetes (each node's podCIDR) instead of etcd.",
            ),
            click.option(
                "--kube-api-url",
                envvar="FLANNELD_KUBE_API_URL",
                default="",
                help="The API server; default: of --kubeconfig-file, or of the pod we run in.",
            ),
            click.option(
                "--kubeconfig-file",
                envvar="FLANNELD_KUBECONFIG_FILE",
                default="",
                help="Kubeconfig with the API server and our account.",
            ),
            click.option(
                "--kube-annotation-prefix",
                envvar="FLANNELD_KUBE_ANNOTATION_PREFIX",
                default=DEFAULT_PREFIX,
                help="Prefix of the nodes' annotations.",
            ),
            click.option(
                "--net-config-path",
                envvar="FLANNELD_NET_CONFIG_PATH",
                default=NET_CONFIG,
                type=click.Path(path_type=Path),
                help="With --kube-subnet-mgr: file with the cluster config (net-conf.json).",
            ),
            boolean(
                "--set-node-network-unavailable",
                default=True,
                envvar="FLANNELD_SET_NODE_NETWORK_UNAVAILABLE",
                help="Clear the node's condition NetworkUnavailable when pods are served.",
            ),
        )
    ):
        command = option(command)
    return command


def take_kube_settings(flags: dict[str, Any]) -> KubeSettings | None:
    """Take these flags out of a command's arguments; None without --kube-subnet-mgr."""
    wanted = flags.pop("kube_subnet_mgr")
    found = KubeSettings(
        flags.pop("kube_api_url"),
        flags.pop("kubeconfig_file"),
        flags.pop("kube_annotation_prefix"),
        flags.pop("net_config_path"),
        flags.pop("set_node_network_unavailable"),
    )
    return found if wanted else None
