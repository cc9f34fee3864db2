# SPDX-License-Identifier: Apache-2.0
"""The keys that the `flannel` plugin reads.

    {"subnetFile": "/run/flannel/subnet.env", "dataDir": "/var/lib/cni/flannel",
     "ipam": {...}, "delegate": {"hairpinMode": true, "isDefaultGateway": true}}

The two sections are passed on to the delegate, completed, so most of their keys are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cni.config.ipam_config import parse_subnet_file
from cni.config.request import CniRequest
from cni.errors import INVALID_CONFIG, CniError

DATA_DIR = "/var/lib/cni/flannel"
"""The real meta-plugin's default."""
FILLED_IN = ("name", "ipam")
"""Keys of the delegate's config that the `delegate` section must not have."""


class FlannelConfig(NamedTuple):
    """What ADD needs of a config."""

    network: str
    delegate: Mapping[str, Any]
    """The `delegate` section as it is given."""
    ipam: Mapping[str, Any]
    """The `ipam` section as it is given."""
    routes: tuple[Any, ...]
    """`ipam.routes` as they are given."""
    subnet_file: Path | None
    """Where subnet.env is; None: where the host has it."""
    passed_on: Mapping[str, Any]
    """Keys of the config that the delegate gets unchanged."""


def parse_flannel_config(request: CniRequest) -> FlannelConfig:
    """Read the config of an ADD or a STATUS. Raises CniError (7)."""
    config = request.config
    delegate, ipam = config.section("delegate"), config.section("ipam")
    for key in FILLED_IN:
        if delegate is not None and key in delegate.raw:
            raise CniError(
                INVALID_CONFIG, f"delegate: must not hold {key!r}, which flannel fills in"
            )
    routes = ipam.value("routes") if ipam is not None else None
    if routes is not None and not isinstance(routes, list):
        raise CniError(INVALID_CONFIG, "ipam.routes: is not a list")
    passed_on = {}
    if config.value("cniVersion"):
        passed_on["cniVersion"] = config.value("cniVersion")
    if config.value("runtimeConfig") is not None:
        passed_on["runtimeConfig"] = config.value("runtimeConfig")
    return FlannelConfig(
        request.attachment.network,
        delegate.raw if delegate is not None else {},
        ipam.raw if ipam is not None else {},
        tuple(routes or ()),
        parse_subnet_file(request),
        passed_on,
    )


def parse_flannel_data_dir(request: CniRequest) -> Path:
    """Where the plugin keeps its state files. Raises CniError (7)."""
    return Path(request.config.absolute_path("dataDir") or DATA_DIR)


def previous_as_given(request: CniRequest) -> dict[str, Any]:
    """The prevResult as a key of the delegate's config; empty when there is none."""
    previous = request.config.value("prevResult")
    return {} if previous is None else {"prevResult": previous}
