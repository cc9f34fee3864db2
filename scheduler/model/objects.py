# SPDX-License-Identifier: Apache-2.0
"""Configs, secrets and networks, with Docker's field names."""

from __future__ import annotations

from scheduler.model.base import Document


class DataSpec(Document):
    """A config's or secret's name and content."""

    name: str
    labels: dict[str, str] = {}
    data: str = ""
    """Base64."""


class StoredData(Document):
    """A config (configs/<id>) or secret (secrets/<id>)."""

    id: str
    spec: DataSpec
    created_at: str = ""
    updated_at: str = ""


class Network(Document):
    """A network that services name (networks/<id>): all are the one flat network."""

    id: str
    name: str
    driver: str = "flatmesh"
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    attachable: bool = True
    created: str = ""
