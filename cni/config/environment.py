# SPDX-License-Identifier: Apache-2.0
"""The CNI_* variables of a call: which a command requires, and what they may hold.

| command | required variables beside CNI_COMMAND |
|---|---|
| ADD, CHECK | CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME |
| DEL | CNI_CONTAINERID, CNI_IFNAME (the namespace may be gone) |
| GC | CNI_PATH |
| STATUS, VERSION | none |
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cni.errors import INVALID_ENVIRONMENT, CniError

MAX_IFNAME = 15  # bytes: IFNAMSIZ less the terminating zero, linux/if.h
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*", re.ASCII)
"""A container id or a network name (CNI SPEC 1.1.0, sections 1 and 2)."""
NAME_RULE = "must start with a letter or digit and go on with letters, digits, '_', '.', '-'"

_REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": ("CNI_PATH",),
    "STATUS": (),
    "VERSION": (),
}


def check_variables(command: str, environment: Mapping[str, str]) -> None:
    """Raise CniError (4), which names every missing or malformed variable at once."""
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
        if container and not NAME.fullmatch(container):
            problems.append(f"CNI_CONTAINERID {container!r} {NAME_RULE}")
        ifname = environment.get("CNI_IFNAME", "")
        if ifname and (problem := ifname_problem(ifname)):
            problems.append(f"CNI_IFNAME {ifname!r} {problem}")
    if problems:
        raise CniError(INVALID_ENVIRONMENT, "; ".join(problems))


def ifname_problem(name: str) -> str | None:
    """Why an interface can't have this name; None: it can.

    The rules are the kernel's dev_valid_name and libcni's.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # bytes of the environment that are no UTF-8
        return "must be UTF-8"
    if not 1 <= size <= MAX_IFNAME:
        return f"must have 1 to {MAX_IFNAME} characters"
    if name in (".", ".."):
        return "must not be . or .."
    if any(c in "/:%" or c.isspace() for c in name):  # the kernel puts a number in place of %d
        return "must not hold '/', ':', '%' or white space"
    return None


def parse_cni_args(text: str) -> dict[str, str]:
    """Read CNI_ARGS, `K=V;K=V`; keys that no plugin reads are allowed. Raises CniError (4)."""
    arguments = {}
    for pair in text.split(";"):
        if not pair:
            continue
        name, equals, value = pair.partition("=")
        if not equals:
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: invalid pair {pair!r}; use K=V;K=V")
        arguments[name] = value
    return arguments
