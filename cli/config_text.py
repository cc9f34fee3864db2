# SPDX-License-Identifier: Apache-2.0
"""The cluster config as an operator types it, checked more strictly than daemons do.

Daemons tolerate keys that they don't know, as flanneld does; who writes one is told.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from agent.cluster_config.check import CHECKS, check_config, without_effect
from ipam.network import KEYS, ConfigError, NetworkConfig, parse_config

BACKEND_KEYS = {"type", *(key.lower() for check in CHECKS.values() for key in check.keys)}


def read_config(text: str) -> tuple[NetworkConfig, dict[str, Any]]:
    """Read a config and its document; `-` is stdin. Raises ConfigError."""
    if text == "-":
        text = sys.stdin.read()
    elif not text.lstrip().startswith(("{", "[")):
        raise ConfigError(_no_json(text))
    wanted = parse_config(text)
    document: dict[str, Any] = json.loads(text)
    for name in _unknown(document):
        if name.lower() in BACKEND_KEYS:
            example = json.dumps({"Backend": {name: document[name]}})[1:-1]
            raise ConfigError(f"cluster config: {name} is a key of Backend: write {example[:200]}")
    check_config(wanted)
    return wanted, document


def keys_without_effect(wanted: NetworkConfig, document: dict[str, Any]) -> list[str]:
    """A line for each key that nobody reads."""
    names = [*_unknown(document), *(f"Backend.{name}" for name in without_effect(wanted))]
    return [f"! {name} is no key: it has no effect" for name in names]


def _unknown(document: dict[str, Any]) -> list[str]:
    known = {key.lower() for key in KEYS}
    return [name for name in document if name.lower() not in known]


def _no_json(text: str) -> str:
    shown = text if len(text) <= 60 else f"{text[:60]}..."
    if "\0" not in text and len(text) < 200 and Path(text).is_file():
        return f"{shown} is a file: read it with - < {shown}"
    return (
        f'the config {shown!r} is no JSON object: write e.g. {{"Network":"10.5.0.0/16",'
        '"Backend":{"Type":"vxlan"}}, or - < FILE'
    )
