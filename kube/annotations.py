# SPDX-License-Identifier: Apache-2.0
"""A host's lease as annotations of its Node, byte for byte as flannel's kube subnet manager.

    flannel.alpha.coreos.com/kube-subnet-manager: "true"
    flannel.alpha.coreos.com/backend-type: vxlan
    flannel.alpha.coreos.com/backend-data: '{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}'
    flannel.alpha.coreos.com/public-ip: 192.168.64.3

The operator sets two pairs more: `public-ip-overwrite` is published in public-ip's place,
`node-public-ip` says which address of the host is its underlay's (each with a `public-ipv6` one).
Source: flannel, pkg/subnet/kube/annotations.go and kube.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from ipam.lease import LeaseAttributes
from kube.errors import BrokenObjectError, KubeSettingsError
from kube.settings import DEFAULT_PREFIX

_PREFIX = re.compile(r"(?:[a-z0-9_-]+\.)+[a-z0-9_-]+/(?:[a-z0-9_-]+-)?", re.ASCII)
MAX_VALUE = 8192
"""Bytes of one annotation that are read: a backend's data are some hundred."""


@dataclass(frozen=True, slots=True)
class AnnotationNames:
    """The annotations' names; make it with `annotation_names`."""

    prefix: str

    @property
    def managed(self) -> str:
        """Whether the Node has a lease: "true"."""
        return f"{self.prefix}kube-subnet-manager"

    @property
    def backend_type(self) -> str:
        """Empty for udp."""
        return f"{self.prefix}backend-type"

    def backend_data(self, family: int) -> str:
        """JSON of the backend; `null` for none."""
        return f"{self.prefix}{'backend-data' if family == 4 else 'backend-v6-data'}"

    def public_ip(self, family: int, suffix: str = "") -> str:
        """The address by which peers reach the host; with `-overwrite` the operator's."""
        return f"{self.prefix}{'public-ip' if family == 4 else 'public-ipv6'}{suffix}"

    def node_public_ip(self, family: int) -> str:
        """Which address of the host is its underlay's."""
        return f"{self.prefix}{'node-public-ip' if family == 4 else 'node-public-ipv6'}"

    def of(self, annotations: Mapping[str, str]) -> dict[str, str]:
        """Those of some annotations that are ours to read."""
        return {
            name: value[:MAX_VALUE]
            for name, value in annotations.items()
            if name.startswith(self.prefix) and isinstance(value, str)
        }


def annotation_names(prefix: str) -> AnnotationNames:
    """The names below `--kube-annotation-prefix`. Raises KubeSettingsError."""
    full = prefix if "/" in prefix else f"{prefix}/"
    if not full.endswith(("/", "-")):
        full += "-"
    if not _PREFIX.fullmatch(full):
        raise KubeSettingsError(
            f"--kube-annotation-prefix {prefix[:100]!r}: it must be a domain, as {DEFAULT_PREFIX}, "
            "that a slash and letters may follow"
        )
    return AnnotationNames(full)


def parse_attributes(
    annotations: Mapping[str, str], names: AnnotationNames, families: tuple[int, ...]
) -> LeaseAttributes:
    """What a Node's annotations say of its host, in the cluster's families.

    Raises BrokenObjectError.
    """
    address: dict[int, Any] = {}
    data: dict[int, Any] = {}
    for family in families:
        text = annotations.get(names.public_ip(family))
        address[family] = _address(text, family, names.public_ip(family)) if text else None
        data[family] = _data(annotations, names.backend_data(family))
    if not any(address.values()):
        raise BrokenObjectError(f"no {' or '.join(names.public_ip(f) for f in families)}")
    return LeaseAttributes(
        address.get(4),
        address.get(6),
        annotations.get(names.backend_type, ""),
        data.get(4),
        data.get(6),
    )


def format_attributes(
    attributes: LeaseAttributes, there: Mapping[str, str], names: AnnotationNames
) -> dict[str, str]:
    """The annotations that say it; `there` is what the Node has, with the operator's wishes.

    An address that the operator overwrites is published as he says.
    """
    kind = attributes.backend_type
    found = {names.managed: "true", names.backend_type: "" if kind == "udp" else kind}
    for family, address, data in (
        (4, attributes.public_ip, attributes.backend_data),
        (6, attributes.public_ipv6, attributes.backend_v6_data),
    ):
        if address is None:
            continue
        wish = there.get(names.public_ip(family, "-overwrite"))
        found[names.public_ip(family)] = wish or str(address)
        found[names.backend_data(family)] = json.dumps(
            data, separators=(",", ":"), ensure_ascii=False
        )
    return found


def overwritten(
    attributes: LeaseAttributes, there: Mapping[str, str], names: AnnotationNames
) -> LeaseAttributes:
    """The attributes with the addresses that the operator publishes in their place.

    Raises BrokenObjectError: what he has written is no address.
    """
    found: dict[int, Any] = {4: attributes.public_ip, 6: attributes.public_ipv6}
    for family in (4, 6):
        name = names.public_ip(family, "-overwrite")
        if found[family] is not None and there.get(name):
            found[family] = _address(there[name], family, name)
    return LeaseAttributes(
        found[4],
        found[6],
        attributes.backend_type,
        attributes.backend_data,
        attributes.backend_v6_data,
    )


def node_addresses(
    annotations: Mapping[str, str], names: AnnotationNames
) -> tuple[IPv4Address | None, IPv6Address | None]:
    """The underlay's addresses that the operator chose. Raises BrokenObjectError."""
    found: list[Any] = []
    for family in (4, 6):
        text = annotations.get(names.node_public_ip(family))
        found.append(_address(text, family, names.node_public_ip(family)) if text else None)
    return found[0], found[1]


def _address(text: str, family: int, name: str) -> IPv4Address | IPv6Address:
    try:
        return IPv4Address(text) if family == 4 else IPv6Address(text)
    except ValueError:
        raise BrokenObjectError(f"{name} is {text[:100]!r}: no IPv{family} address") from None


def _data(annotations: Mapping[str, str], name: str) -> Any:
    text = annotations.get(name)
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BrokenObjectError(f"{name} is not JSON: {text[:100]!r}") from None
