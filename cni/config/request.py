# SPDX-License-Identifier: Apache-2.0
"""A call whose environment and stdin are read and checked; nothing on the host is changed yet.

The checks and their order are those of libcni's plugin skeleton, which runtimes were written
against: first the variables, then the JSON, then the version, then what the command requires
of it (CNI SPEC 1.1.0, sections 2, 3 and 4). The sections of the config that only one plugin
reads have a module each in this folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from cni import versions
from cni.config.call import AttachmentKey, CniCall
from cni.config.environment import NAME, NAME_RULE, check_variables, parse_cni_args
from cni.errors import DECODING_FAILURE, INVALID_CONFIG, CniError
from cni.fields import CniFields
from cni.result.model import CniResult
from cni.result.read import read_result

NO_ATTACHMENT = AttachmentKey("", "", "")
MAX_STDIN = 16 << 20  # bytes; a config has a few hundred, a chain's prevResult a few thousand


class CniRequest(NamedTuple):
    """A call that has passed all checks which need neither a plugin nor this host."""

    call: CniCall
    command: str
    version: str
    """The config's cniVersion, which is the answer's too."""
    config: CniFields
    """The config on stdin; only `cni.config` reads it. Delegates get it unchanged (`.raw`)."""
    attachment: AttachmentKey = NO_ATTACHMENT
    """`network` is empty for VERSION only; the other two for GC and STATUS too."""
    netns: str = ""
    """CNI_NETNS as given; may be empty on DEL."""
    cni_path: tuple[str, ...] = ()
    """The directories of CNI_PATH."""
    arguments: Mapping[str, str] | None = None
    """CNI_ARGS."""

    def previous(self) -> CniResult | None:
        """The prevResult; None when there is none. Raises CniError (6)."""
        raw = self.config.value("prevResult")
        return None if raw is None else read_result(raw)

    def required_previous(self) -> CniResult:
        """The prevResult of a CHECK. Raises CniError (6; 7 when there is none)."""
        previous = self.previous()
        if previous is None:
            raise CniError(INVALID_CONFIG, "CHECK: required prevResult missing")
        return previous

    def valid_attachments(self) -> frozenset[tuple[str, str]]:
        """What GC must keep: pairs of container id and interface name.

        Raises CniError (7) when the key is missing: that must not mean "keep nothing".
        """
        listed = self.config.value("cni.dev/valid-attachments")
        if not isinstance(listed, list):
            raise CniError(
                INVALID_CONFIG,
                "GC: the config has no list cni.dev/valid-attachments; "
                "an empty list would remove every attachment of the network",
            )
        pairs = set()
        for entry in listed:
            fields = entry if isinstance(entry, Mapping) else {}
            pair = (fields.get("containerID"), fields.get("ifname"))
            if not (isinstance(pair[0], str) and isinstance(pair[1], str)):
                raise CniError(
                    INVALID_CONFIG,
                    f"GC: cni.dev/valid-attachments: {entry!r} is not "
                    '{"containerID": ..., "ifname": ...}',
                )
            pairs.add((pair[0], pair[1]))
        return frozenset(pairs)


def stated_version(stdin: bytes) -> str:
    """The cniVersion of an error object: the request's, or the newest if it can't be read."""
    try:
        version = json.loads(stdin)["cniVersion"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return versions.NEWEST
    return version if isinstance(version, str) and version else versions.NEWEST


def parse_request(call: CniCall) -> CniRequest:
    """Read and check a call. Raises CniError (1, 4, 6, 7)."""
    environment = call.environment
    command = environment.get("CNI_COMMAND", "")
    check_variables(command, environment)
    arguments = parse_cni_args(environment.get("CNI_ARGS", ""))
    raw = _decode(call.stdin, empty_allowed=command == "VERSION")
    config = CniFields(raw, "", INVALID_CONFIG)
    if command == "VERSION":
        return CniRequest(call, command, str(raw.get("cniVersion") or versions.NEWEST), config)
    version = versions.require(raw.get("cniVersion") or versions.DEFAULT)
    versions.require_command(command, version)
    key = AttachmentKey(
        _network_name(raw.get("name")),
        environment.get("CNI_CONTAINERID", ""),
        environment.get("CNI_IFNAME", ""),
    )
    directories = tuple(d for d in environment.get("CNI_PATH", "").split(":") if d)
    netns = environment.get("CNI_NETNS", "")
    return CniRequest(call, command, version, config, key, netns, directories, arguments)


def _decode(stdin: bytes, *, empty_allowed: bool) -> Mapping[str, Any]:
    if len(stdin) > MAX_STDIN:
        raise CniError(DECODING_FAILURE, f"the config on stdin is larger than {MAX_STDIN} bytes")
    if empty_allowed and not stdin.strip():
        return {}
    try:
        config = json.loads(stdin)
    except RecursionError:
        raise CniError(DECODING_FAILURE, "the config on stdin is nested too deeply") from None
    except ValueError as error:
        what = str(error) if stdin.strip() else "it is empty"
        raise CniError(DECODING_FAILURE, f"the config on stdin is no JSON: {what}") from None
    if not isinstance(config, dict):
        raise CniError(DECODING_FAILURE, "the config on stdin is no JSON object")
    return config


def _network_name(name: object) -> str:
    if name is None or name == "":
        raise CniError(INVALID_CONFIG, "missing network name: the config has no `name`")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise CniError(INVALID_CONFIG, f"invalid network name: name {name!r} {NAME_RULE}")
    return name
