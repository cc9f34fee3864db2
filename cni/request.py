"""One call of a plugin: environment and stdin, read and checked before anything is touched.

The checks and their order are libcni's skeleton's, which runtimes were written against:
variables first (every bad one named at once), then the JSON, then the version, then what the
command needs of it (CNI SPEC 1.1.0, sections 2, 3 and 4).

| command | required variables beside CNI_COMMAND |
|---|---|
| ADD, CHECK | CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME |
| DEL | CNI_CONTAINERID, CNI_IFNAME (the namespace may be gone) |
| GC | CNI_PATH |
| STATUS, VERSION | none |
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cni import versions
from cni.errors import DECODING_FAILURE, INVALID_CONFIG, INVALID_ENVIRONMENT, CniError
from cni.result import Result
from cni.result import parse as parse_result

MAX_STDIN = 16 << 20  # bytes; a config is a few hundred, a chain's prevResult a few thousand
MAX_IFNAME = 15  # characters: IFNAMSIZ less the zero, linux/if.h

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*", re.ASCII)
_REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": ("CNI_PATH",),
    "STATUS": (),
    "VERSION": (),
}


class Key(NamedTuple):
    """What an attachment is known by; none of the three tells it alone."""

    network: str
    container_id: str
    ifname: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call as it arrived, from the socket or from our own process."""

    plugin: str
    """The executable's name: `flatmesh`, `flatmesh-ipam`, `flannel`."""
    environment: Mapping[str, str]
    stdin: bytes
    netns_fd: int | None = None
    """CNI_NETNS, opened by the client; None when it could not be, or we are the client."""
    same_mounts: bool = True
    """Whether paths mean the same to us as to the runtime."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call that has passed the checks which don't need this host."""

    call: Call
    command: str
    conf: Mapping[str, Any]
    version: str
    """The config's cniVersion: the answer's shape."""
    network: str
    """The config's `name`; empty only for VERSION."""
    container_id: str = ""
    netns: str = ""
    """CNI_NETNS as given; may be empty on DEL."""
    ifname: str = ""
    args: Mapping[str, str] | None = None
    """CNI_ARGS."""

    @property
    def key(self) -> Key:
        """The attachment that the call is about."""
        return Key(self.network, self.container_id, self.ifname)

    @property
    def path(self) -> tuple[str, ...]:
        """The directories of CNI_PATH."""
        return tuple(d for d in self.call.environment.get("CNI_PATH", "").split(":") if d)

    @property
    def runtime_config(self) -> Mapping[str, Any]:
        """The capabilities' values; `{}` when there are none."""
        found = self.conf.get("runtimeConfig")
        return found if isinstance(found, Mapping) else {}

    @property
    def cni_args(self) -> Mapping[str, Any]:
        """The config's `args.cni`; `{}` when there is none."""
        args = self.conf.get("args")
        found = args.get("cni") if isinstance(args, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def argument(self, name: str) -> str:
        """A value of CNI_ARGS; empty when it isn't there."""
        return (self.args or {}).get(name, "")

    def previous(self) -> Result | None:
        """The prevResult. Raises CniError (6)."""
        raw = self.conf.get("prevResult")
        return None if raw is None else parse_result(raw)

    def valid_attachments(self) -> frozenset[tuple[str, str]]:
        """What GC must keep: (container id, interface name) pairs.

        Raises CniError (7) when the key is missing: that must never mean "keep nothing".
        """
        found = self.conf.get("cni.dev/valid-attachments")
        if not isinstance(found, list):
            raise CniError(
                INVALID_CONFIG,
                "GC: the config has no list cni.dev/valid-attachments; "
                "an empty list would remove every attachment of the network",
            )
        pairs = set()
        for entry in found:
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
    """The cniVersion for an error object: the request's where it can be read."""
    try:
        version = json.loads(stdin)["cniVersion"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return versions.NEWEST
    return version if isinstance(version, str) and version else versions.NEWEST


def parse(call: Call) -> Request:
    """Read and check a call. Raises CniError (1, 4, 6, 7)."""
    environment = call.environment
    command = environment.get("CNI_COMMAND", "")
    _check_variables(command, environment)
    args = _parse_args(environment.get("CNI_ARGS", ""))
    conf = _parse_conf(call.stdin, empty_allowed=command == "VERSION")
    if command == "VERSION":
        return Request(call, command, conf, str(conf.get("cniVersion") or versions.NEWEST), "")
    version = versions.require(conf.get("cniVersion") or versions.UNSTATED)
    versions.require_command(command, version)
    return Request(
        call,
        command,
        conf,
        version,
        _network_name(conf),
        environment.get("CNI_CONTAINERID", ""),
        environment.get("CNI_NETNS", ""),
        environment.get("CNI_IFNAME", ""),
        args,
    )


def _check_variables(command: str, environment: Mapping[str, str]) -> None:
    if not command:
        raise CniError(
            INVALID_ENVIRONMENT,
            "required env variables [CNI_COMMAND] missing: this is a CNI plugin, "
            "to be called by a container runtime",
        )
    if command not in _REQUIRED:
        raise CniError(
            INVALID_ENVIRONMENT,
            f"unknown CNI_COMMAND: {command!r}; use one of {', '.join(_REQUIRED)}",
        )
    required = _REQUIRED[command]
    missing = [name for name in required if not environment.get(name)]
    problems = [f"required env variables [{', '.join(missing)}] missing"] if missing else []
    if "CNI_CONTAINERID" in required:
        container = environment.get("CNI_CONTAINERID", "")
        if container and not _NAME.fullmatch(container):
            problems.append(
                f"CNI_CONTAINERID {container!r} must start with a letter or digit and go on "
                "with letters, digits, '_', '.', '-'"
            )
        ifname = environment.get("CNI_IFNAME", "")
        if ifname and (problem := ifname_problem(ifname)):
            problems.append(f"CNI_IFNAME {ifname!r} {problem}")
    if problems:
        raise CniError(INVALID_ENVIRONMENT, "; ".join(problems))


def ifname_problem(name: str) -> str | None:
    """Why a name can't be an interface's (dev_valid_name in the kernel, libcni's check)."""
    if not 1 <= len(name.encode()) <= MAX_IFNAME:
        return f"must have 1 to {MAX_IFNAME} characters"
    if name in (".", ".."):
        return "must not be . or .."
    if any(c in "/:" or c.isspace() for c in name):
        return "must not hold '/', ':' or white space"
    return None


def _parse_args(text: str) -> dict[str, str]:
    """`K=V;K=V`. Unknown keys are everybody's right: we only ever look up our own."""
    args = {}
    for pair in text.split(";"):
        if not pair:
            continue
        name, equals, value = pair.partition("=")
        if not equals:
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: invalid pair {pair!r}; use K=V;K=V")
        args[name] = value
    return args


def _parse_conf(stdin: bytes, *, empty_allowed: bool) -> Mapping[str, Any]:
    if len(stdin) > MAX_STDIN:
        raise CniError(DECODING_FAILURE, f"the config on stdin is larger than {MAX_STDIN} bytes")
    if empty_allowed and not stdin.strip():
        return {}
    try:
        conf = json.loads(stdin)
    except RecursionError:
        raise CniError(DECODING_FAILURE, "the config on stdin is nested too deeply") from None
    except ValueError as error:
        what = str(error) if stdin.strip() else "it is empty"
        raise CniError(DECODING_FAILURE, f"the config on stdin is no JSON: {what}") from None
    if not isinstance(conf, dict):
        raise CniError(DECODING_FAILURE, "the config on stdin is no JSON object")
    return conf


def _network_name(conf: Mapping[str, Any]) -> str:
    name = conf.get("name")
    if name is None or name == "":
        raise CniError(INVALID_CONFIG, "missing network name: the config has no `name`")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CniError(
            INVALID_CONFIG,
            f"invalid network name: name {name!r} must start with a letter or digit and go on "
            "with letters, digits, '_', '.', '-'",
        )
    return name
