# SPDX-License-Identifier: Apache-2.0
"""The settings that the daemon of this host was started with, for commands that need the same.

    settings = ask_settings(run_dir())
    settings.etcd.endpoints, settings.etcd.cafile, settings.subnet_file

A password never leaves the daemon; the path of the file that holds it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.settings import Settings
from agent.status.client import ask
from base.errors import FlatmeshError
from base.fields import Fields
from etcd.connect import EtcdSettings

ETCD_TEXTS = ("keyfile", "certfile", "cafile", "username", "passwordfile")
PATHS = ("run_dir", "state_dir", "subnet_file")


class UnknownAnswerError(FlatmeshError):
    """The daemon is of a version whose answer this command does not understand."""


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """What commands may use."""

    run_dir: Path
    state_dir: Path
    subnet_file: Path
    etcd: EtcdSettings | None
    """Without the password; None when leases come from elsewhere."""
    has_password: bool = False
    """Whether the daemon was given a password itself, not in a file."""


def exported(settings: Settings) -> dict[str, Any]:
    """The settings as JSON, without secrets."""
    found: dict[str, Any] = {name: str(getattr(settings, name).absolute()) for name in PATHS}
    etcd = settings.etcd
    if etcd is not None:
        found["etcd"] = {
            "endpoints": list(etcd.endpoints),
            "prefix": etcd.prefix,
            **{name: getattr(etcd, name) for name in ETCD_TEXTS},
            "has_password": etcd.password is not None,
        }
    return found


def imported(answer: object) -> DaemonSettings:
    """Read what `exported` wrote. Raises UnknownAnswerError."""
    fields = Fields(_object(answer), "the daemon's settings: ", UnknownAnswerError)
    run_dir, state_dir, subnet_file = (Path(fields.text(name, "/")) for name in PATHS)
    if fields.value("etcd") is None:
        return DaemonSettings(run_dir, state_dir, subnet_file, etcd=None)
    inner = Fields(_object(fields.value("etcd")), "the daemon's etcd: ", UnknownAnswerError)
    endpoints = inner.value("endpoints")
    if not isinstance(endpoints, list):
        raise inner.problem("endpoints", "a list")
    etcd = EtcdSettings(
        tuple(str(one) for one in endpoints),
        inner.text("prefix", "/"),
        keyfile=inner.text("keyfile"),
        certfile=inner.text("certfile"),
        cafile=inner.text("cafile"),
        username=inner.text("username"),
        passwordfile=inner.text("passwordfile"),
    )
    has_password = inner.flag("has_password", default=False)
    return DaemonSettings(run_dir, state_dir, subnet_file, etcd, has_password)


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise UnknownAnswerError("the daemon's answer is no JSON object: is it of another version?")
    return value


def ask_settings(directory: Path) -> DaemonSettings:
    """The settings of the daemon that serves there.

    Raises NoDaemonError, RefusedError, UnknownAnswerError.
    """
    return imported(ask(directory, "settings"))
