# SPDX-License-Identifier: Apache-2.0
"""Flags and variables of flanneld that flatmeshd has not: named with what to do instead.

A flag that flatmeshd can't follow is refused, as the host would otherwise be set up in another way
than its operator believes; `=false` asks for nothing, and is accepted. One without need here is
accepted, and the log says why there is none. A variable that begins with FLANNELD_ and is no
setting at all is named in the log: it is probably misspelt. flanneld overlooks it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from base.fields import nearest

Command = TypeVar("Command", bound=Callable[..., Any])
PREFIX, OWN_PREFIX = "FLANNELD_", "FLATMESH_"
FALSE = {"false", "f", "0", "no", "off", ""}
OF_KUBERNETES = re.compile(r"FLANNELD_(SERVICE_|PORT(_|$))")
"""Variables that Kubernetes gives to each pod for a service named flanneld."""
NOTES = "agent.flanneld.notes"
"""Key in click's context."""


@dataclass(frozen=True, slots=True)
class Lacking:
    """A flag of flanneld that flatmeshd has not."""

    name: str
    instead: str
    """What to do instead, or why nothing needs to be done."""
    boolean: bool = False
    refused: bool = True


FLAGS = (
    Lacking(
        "use-multi-cluster-cidr",
        "a node's podCIDR may lie anywhere in Network and have any length: leave it out",
        boolean=True,
        refused=False,
    ),
    Lacking("iface-can-reach", "give --iface the device that ip route get ADDRESS names"),
    Lacking(
        "ip-blackhole-route",
        "add the route yourself: ip route add blackhole SUBNET metric 4096",
        boolean=True,
    ),
    Lacking(
        "ip-masq-fully-random-disable",
        "ports of masqueraded connections are always chosen at random",
        boolean=True,
    ),
    Lacking("charon-executable-path", "there is no ipsec: Backend.Type wireguard encrypts"),
    Lacking("charon-vici-uri", "there is no ipsec: Backend.Type wireguard encrypts"),
    Lacking("networks", "a daemon serves one network: run one for each, with its own --run-dir"),
    Lacking("subnet-dir", "a daemon serves one network: --subnet-file says where its lease is"),
    Lacking("listen", "each daemon asks etcd itself: leave it out"),
    Lacking("remote", "each daemon asks etcd itself: give --etcd-endpoints"),
    Lacking("persistent-mac", "the MAC in the lease is kept", boolean=True, refused=False),
    Lacking(
        "subnet-lease-renew-margin", "a lease is renewed three times in its life", refused=False
    ),
    Lacking("iptables-resync", "the kernel tells of changed rules", refused=False),
    Lacking("vmodule", "--log-level debug has all messages", refused=False),
    Lacking("log_backtrace_at", "--log-level debug has all messages", refused=False),
)


def flanneld_options(command: Command) -> Command:
    """Accept flanneld's `-v=5`, and say of its other flags what to do instead."""
    for flag in FLAGS:
        command = _option(flag)(command)
    verbosity = click.option(
        *("-v", "--v", "verbosity"),
        type=int,
        default=0,
        envvar="FLANNELD_V",
        hidden=True,
        help="Above 0: as --log-level debug.",
    )
    return verbosity(command)


def _option(flag: Lacking) -> Callable[[Command], Command]:
    def told(context: click.Context, _option: click.Parameter, value: str | None) -> None:
        if value is None or (flag.boolean and value.lower() in FALSE):
            return
        if flag.refused:
            raise click.UsageError(f"flatmeshd has no --{flag.name} of flanneld: {flag.instead}")
        context.meta.setdefault(NOTES, []).append(f"--{flag.name} is not needed: {flag.instead}")

    return click.option(
        f"--{flag.name}",
        is_flag=False,
        flag_value="true" if flag.boolean else None,
        envvar=variable_of(flag.name),
        callback=told,
        expose_value=False,
        hidden=True,
        help=f"{'Refused' if flag.refused else 'Not needed'}: {flag.instead}.",
    )


def variable_of(flag: str) -> str:
    """Flanneld's variable for a flag."""
    return PREFIX + flag.replace("-", "_").upper()


def notes(context: click.Context, environment: Mapping[str, str]) -> Iterator[str]:
    """Lines for the log: flags without need, and variables that are no settings."""
    yield from context.meta.get(NOTES, ())
    options = [one for one in context.command.params if isinstance(one, click.Option)]
    known = {name for option in options for name in _variables(option)}
    known |= {variable_of(flag) for flag in ("help", "version")}
    yield from unknown_variables(known, environment)


def unknown_variables(known: Collection[str], environment: Mapping[str, str]) -> Iterator[str]:
    """A line for each variable that looks like a setting and is none of those that are known."""
    words = {name.partition("_")[2]: name for name in known}
    for name in sorted(environment):
        prefix, word = name.partition("_")[::2]
        ours = f"{prefix}_" == OWN_PREFIX and PREFIX + word in known  # FLATMESH_IFACE
        if name in known or not (ours or f"{prefix}_" == PREFIX) or OF_KUBERNETES.match(name):
            continue
        meant = nearest(word, words)
        hint = f"did you mean {words[meant]}?" if meant else "flatmeshd --help lists all"
        yield f"{name} is no setting of flatmeshd and has no effect: {hint}"


def _variables(option: click.Option) -> list[str]:
    given = option.envvar
    return [given] if isinstance(given, str) else list(given or ())
