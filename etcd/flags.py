# SPDX-License-Identifier: Apache-2.0
"""The flags that say how to reach etcd, with flanneld's names, for every command that needs it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from etcd.connect import EtcdSettings

Command = TypeVar("Command", bound=Callable[..., Any])
log = logging.getLogger("etcd")


def connection_options(
    command: Command,
    endpoints: str,
    *prefixes: Callable[[Any], Any],
    endpoints_help: str = "Comma-separated URLs of the etcd members.",
) -> Command:
    """Add the flags to a command, with those of its prefixes behind the first one.

    `endpoints` is the default. `take_settings` reads them.
    """
    options: tuple[Callable[[Any], Any], ...] = (
        click.option(
            "--etcd-endpoints",
            envvar="FLANNELD_ETCD_ENDPOINTS",
            default=endpoints,
            show_default=True,
            help=endpoints_help,
        ),
        *prefixes,
        _file("--etcd-keyfile", "Our private key (PEM), for TLS client authentication."),
        _file("--etcd-certfile", "Our certificate (PEM)."),
        _file("--etcd-cafile", "The CA that signed etcd's certificate (PEM)."),
        click.option(
            "--etcd-username", envvar="FLANNELD_ETCD_USERNAME", help="For etcd's own users."
        ),
        click.option(
            "--etcd-password",
            envvar="FLANNELD_ETCD_PASSWORD",
            help="Every local user can read it in the list of processes: better a file.",
        ),
        click.option(
            "--etcd-password-file",
            "etcd_passwordfile",
            envvar="FLATMESH_ETCD_PASSWORD_FILE",
            help="File with the password; default: the credential etcd-password of systemd.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def take_settings(flags: dict[str, Any], prefix: str) -> EtcdSettings:
    """Take these flags out of a command's arguments. Raises click.BadParameter."""
    urls = tuple(u.strip() for u in flags.pop("etcd_endpoints").split(",") if u.strip())
    for url in urls:
        if not re.fullmatch(r"https?://[^/\s]+:\d+/?", url):
            raise click.BadParameter(
                f"{url!r} is not http(s)://HOST:PORT", param_hint="--etcd-endpoints"
            )
    if not urls:
        raise click.BadParameter("no URL given", param_hint="--etcd-endpoints")
    names = ("keyfile", "certfile", "cafile", "username", "password", "passwordfile")
    rest = {name: flags.pop(f"etcd_{name}") for name in names}
    rest["passwordfile"] = rest["passwordfile"] or _credential("etcd-password")
    for name in ("keyfile", "certfile", "cafile", "passwordfile"):
        if rest[name] and not Path(rest[name]).is_file():
            flag = name.replace("passwordfile", "password-file")
            raise click.BadParameter(f"no file {rest[name]!r}", param_hint=f"--etcd-{flag}")
    context = click.get_current_context(silent=True)
    given = context.get_parameter_source("etcd_password") if context is not None else None
    if given is ParameterSource.COMMANDLINE:
        log.warning("every local user can read --etcd-password: use --etcd-password-file")
    return EtcdSettings(urls, "/" + prefix.strip("/"), **rest)


def _file(name: str, text: str) -> Callable[[Command], Command]:
    variable = "FLANNELD_" + name.strip("-").replace("-", "_").upper()
    return click.option(name, envvar=variable, help=text)


def _credential(name: str) -> str | None:
    """The file of a credential that systemd passed to this service (systemd.exec(5))."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    file = Path(directory, name) if directory else None
    return str(file) if file is not None and file.is_file() else None
