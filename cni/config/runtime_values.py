# SPDX-License-Identifier: Apache-2.0
"""What the runtime asks for beside the config of the network.

It has three ways, here from the weakest to the strongest: the variable CNI_ARGS, the config's
`args.cni`, and the capabilities in `runtimeConfig` (CNI CONVENTIONS.md).
"""

from __future__ import annotations

import re

from cni import cidr
from cni.config.request import CniRequest
from cni.errors import INVALID_CONFIG, CniError

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)


def requested_mac(request: CniRequest) -> str:
    """The hardware address asked for, in lower case with colons; empty: none.

    Raises CniError (7).
    """
    candidates = (
        _cni_args(request, "mac"),
        _capability(request, "mac"),
    )
    mac: object = (request.arguments or {}).get("MAC", "")
    for candidate in candidates:
        mac = candidate or mac
    if not mac:
        return ""
    text = mac.lower().replace("-", ":") if isinstance(mac, str) else ""
    if not _MAC.fullmatch(text):
        raise CniError(
            INVALID_CONFIG, f"mac: {mac!r} is not a hardware address like 0a:58:0a:05:01:02"
        )
    if int(text[:2], 16) & 1:
        raise CniError(INVALID_CONFIG, f"mac: {text} is a multicast address")
    return text


def requested_addresses(request: CniRequest) -> tuple[tuple[int, int], ...]:
    """The IP addresses asked for, as family and integer, each once. Raises CniError (7)."""
    texts: list[object] = [t for t in (request.arguments or {}).get("IP", "").split(",") if t]
    for where, value in (
        ("args.cni.ips", _cni_args(request, "ips")),
        ("runtimeConfig.ips", _capability(request, "ips")),
    ):
        if value is None:
            continue
        if not isinstance(value, list):
            raise CniError(INVALID_CONFIG, f"{where}: is not a list of addresses")
        texts += value
    addresses: dict[tuple[int, int], None] = {}
    for text in texts:
        try:
            parsed = cidr.parse_cidr(str(text), default_length=True)
        except ValueError as error:
            raise CniError(INVALID_CONFIG, f"requested IP: {error}") from None
        addresses[parsed.family, parsed.value] = None
    return tuple(addresses)


def requested_ranges(request: CniRequest) -> object:
    """The value of the `ipRanges` capability as it was given; None: not given."""
    return _capability(request, "ipRanges")


def _cni_args(request: CniRequest, key: str) -> object:
    return request.config.optional_section("args").optional_section("cni").value(key)


def _capability(request: CniRequest, key: str) -> object:
    return request.config.optional_section("runtimeConfig").value(key)
