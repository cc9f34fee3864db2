# SPDX-License-Identifier: Apache-2.0
"""Constraints as Docker writes them: `node.labels.zone==east`, `node.role!=manager`.

Values are compared without regard to case; `*` at an end of a value matches anything there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from scheduler.errors import SpecError
from scheduler.placement.node_state import NodeState

EXPRESSION = re.compile(r"\s*([A-Za-z0-9_.\-/]+?)\s*(==|!=)\s*(.*?)\s*")
FIELDS = (
    *("node.id", "node.hostname", "node.ip", "node.role"),
    *("node.platform.os", "node.platform.arch"),
)
LABELS = ("node.labels.", "engine.labels.")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint."""

    field: str
    """A field of a node; of a label, the prefix and the label's name."""
    equal: bool
    value: str
    """In lower case."""

    def allows(self, node: NodeState) -> bool:
        """Whether a node satisfies it."""
        return self._matches(node) == self.equal

    def _matches(self, node: NodeState) -> bool:
        actual = value_of(node, self.field)
        if actual is None:
            return False
        if "*" in self.value:
            return fnmatchcase(actual.lower(), self.value.replace("[", "[[]").replace("?", "[?]"))
        return actual.lower() == self.value


@lru_cache(maxsize=4096)
def parse_constraint(text: str) -> Constraint:
    """Read one. Raises SpecError."""
    match = EXPRESSION.fullmatch(text)
    if match is None:
        raise SpecError(f"constraint {text!r}: write FIELD==VALUE or FIELD!=VALUE")
    field, operator, value = match.groups()
    label = next((prefix for prefix in LABELS if field.lower().startswith(prefix)), None)
    if label is not None and len(field) > len(label):
        field = label + field[len(label) :]  # a label's name keeps its case
    elif field.lower() in FIELDS:
        field = field.lower()
    else:
        known = ", ".join((*FIELDS, *(f"{prefix}NAME" for prefix in LABELS)))
        raise SpecError(f"constraint {text!r}: unknown field {field}; known: {known}")
    value = value.lower()
    if field == "node.platform.arch":
        value = ARCHITECTURES.get(value, value)
    return Constraint(field, operator == "==", value)


def value_of(node: NodeState, field: str) -> str | None:
    """A node's value of a field; None: it has no such label."""
    match field:
        case "node.id":
            return node.id
        case "node.hostname":
            return node.hostname
        case "node.ip":
            return node.address
        case "node.role":
            return node.role
        case "node.platform.os":
            return node.os
        case "node.platform.arch":
            return ARCHITECTURES.get(node.architecture, node.architecture)
    if field.startswith("node.labels."):
        return node.labels.get(field.removeprefix("node.labels."))
    return node.engine_labels.get(field.removeprefix("engine.labels."))
