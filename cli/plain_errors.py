"""Errors whose message is written for the operator: shown as one line, without a traceback."""

from __future__ import annotations

from base.errors import FlatmeshError
from etcd.client import EtcdError
from ipam.lease import LeaseError
from ipam.network import ConfigError
from ipam.registry import NoFreeSubnetError

PLAIN_ERRORS = (
    ConfigError,
    EtcdError,
    FlatmeshError,
    LeaseError,
    NoFreeSubnetError,
    PermissionError,
)


def one_line(error: BaseException) -> str:
    """Fold a message into one line."""
    return " ".join(str(error).split()) or type(error).__name__
