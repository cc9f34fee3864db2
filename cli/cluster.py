# SPDX-License-Identifier: Apache-2.0
"""Which cluster a command means, so that it needs no flags on a configured host.

Each setting of etcd is taken from the first of:

1. its flag,
2. its environment variable,
3. the daemon of this host, asked by its socket (`agent.status`),
4. /etc/default/flatmeshd, which the daemon is started with,
5. the default.

Where the endpoints are given by 1 or 2, 3 and 4 are left out: another cluster may be meant, and it
shall not get this one's password. The file is left out as well where FLATMESH_RUN_DIR says that a
host of its own is meant, as in a lab.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from agent.flanneld.flags import unknown_variables
from agent.settings import etcd_options, etcd_settings
from agent.status.client import NoDaemonError, RefusedError, run_dir
from agent.status.daemon_settings import UnknownAnswerError, ask_settings
from base import paths
from base.errors import FlatmeshError
from cli import environment_file
from etcd.connect import EtcdSettings, connect
from ipam.registry import Registry

Answer = TypeVar("Answer")
Command = TypeVar("Command", bound=Callable[..., Any])
ENDPOINTS_HELP = (
    "Comma-separated URLs of the etcd members. Where it is not given: those of this host's daemon, "
    f"else of {paths.DEFAULTS_FILE}, and the other settings of etcd, too."
)
GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
PASSWORDS = {"etcd_password", "etcd_passwordfile"}
HOST_VARIABLES = (
    *("FLATMESH_RUN_DIR", "FLATMESH_STATE_DIR", "FLATMESH_SUBNET_FILE"),
    *("FLATMESH_HOST_LOCAL_DIR", "OVS_RUNDIR"),
)
"""Where this host's files are: for all commands, from the environment or the file."""


class NotReadableError(FlatmeshError):
    """What says where etcd is can be read by root only."""


def cluster_options(command: Command) -> Command:
    """Add the flags of etcd."""
    return etcd_options(command, endpoints_help=ENDPOINTS_HELP)


def with_registry(flags: dict[str, Any], work: Callable[[Registry], Awaitable[Answer]]) -> Answer:
    """Run work with a registry on a connection to the cluster that the flags mean."""
    settings = cluster_settings(flags)

    async def run() -> Answer:
        async with connect(settings) as etcd:
            return await work(Registry(etcd, settings.prefix))

    return asyncio.run(run())


def cluster_settings(flags: dict[str, Any]) -> EtcdSettings:
    """Take the etcd flags out of a command's arguments; what isn't given is looked for.

    Raises click.BadParameter, NotReadableError.
    """
    _warn_of_misspelt()
    given = {name for name in flags if name.startswith("etcd_") and _source(name) in GIVEN}
    if "etcd_endpoints" not in given:
        found = dict(_from_file())
        found |= _from_daemon(
            password_known=bool({"etcd_password", "etcd_passwordfile"} & (found.keys() | given))
        )
        flags |= {name: value for name, value in found.items() if name not in given}
    return etcd_settings(flags)


def _warn_of_misspelt() -> None:
    """Name variables such as FLANNELD_ETCD_ENDPOINT, which nobody reads."""
    context = click.get_current_context(silent=True)
    options = context.command.params if context is not None else []
    known = {one.envvar for one in options if isinstance(one.envvar, str)}
    there = {name: text for name, text in os.environ.items() if name.startswith("FLANNELD_ETCD_")}
    for line in unknown_variables(known, there):
        click.echo(f"flatmesh: {line}", err=True)


def adopt_host_variables(environment: MutableMapping[str, str]) -> None:
    """Add from the file where this host's files are, unless a host of its own is meant."""
    found = file_variables()
    if is_other_host(environment, found):
        return
    for name in HOST_VARIABLES:
        if name in found:
            environment.setdefault(name, found[name])


def is_other_host(environment: Mapping[str, str], found: Mapping[str, str]) -> bool:
    """Whether another host is meant than the one that the file is of."""
    name = "FLATMESH_RUN_DIR"
    return environment.get(name) not in (None, found.get(name, paths.RUN_DIR))


def file_variables(path: str = paths.DEFAULTS_FILE) -> Mapping[str, str]:
    """What /etc/default/flatmeshd sets; nothing where it isn't there, or is not ours to read."""
    try:
        return environment_file.parse(Path(path).read_text(errors="replace"))
    except OSError:
        return {}


def _source(name: str) -> ParameterSource | None:
    context = click.get_current_context(silent=True)
    return context.get_parameter_source(name) if context is not None else None


def _from_file() -> Iterator[tuple[str, str]]:
    """The command's etcd flags as /etc/default/flatmeshd sets their variables."""
    context = click.get_current_context(silent=True)
    variables = file_variables()
    if context is None or is_other_host(os.environ, variables):
        return
    for option in context.command.params:
        names = [option.envvar] if isinstance(option.envvar, str) else option.envvar or ()
        for name in names:
            if option.name and option.name.startswith("etcd_") and variables.get(name):
                yield option.name, variables[name]


def _from_daemon(*, password_known: bool) -> dict[str, Any]:
    """The flags as this host's daemon has them. A password it keeps to itself, only its file."""
    directory = run_dir()
    try:
        settings = ask_settings(directory)
    except (NoDaemonError, RefusedError, UnknownAnswerError):
        _require_readable(directory)
        return {}
    if settings.etcd is None:  # leases come from elsewhere
        return {}
    if settings.has_password and not password_known:
        raise NotReadableError(
            "flatmeshd was started with a password of etcd that it tells nobody: give it with "
            "--etcd-password-file"
        )
    there = asdict(settings.etcd)
    endpoints = ",".join(there.pop("endpoints"))
    del there["password"]
    return {"etcd_endpoints": endpoints, **{f"etcd_{name}": there[name] for name in there}}


def _require_readable(directory: Path) -> None:
    """Raise NotReadableError where only root may know which etcd this host uses."""
    file = Path(paths.DEFAULTS_FILE)
    for path, mode in ((directory, os.X_OK), (file, os.R_OK)):
        if path.exists() and not os.access(path, mode):
            raise NotReadableError(
                f"{path} is root's, so it isn't known which etcd this host uses: run it with "
                "sudo, or give --etcd-endpoints"
            )
