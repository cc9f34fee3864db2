# SPDX-License-Identifier: Apache-2.0
"""What a host's network stack holds, as values.

Theory of operation
-------------------
Everything flatmesh wants from a kernel, and everything it finds there, is a value of one of
the types in `hostnet.kinds`: a route, a device, an nftables table. A value's `key` tells *which*
object it is; equality tells whether the object is *right*. `hostnet.plan.diff` compares two
`HostState`s by exactly that and nothing else. A `HostState` does not know the types: it groups
values by their type, and `hostnet.kinds.table` names the kinds there are.

All addresses are canonical text: `inet_ntop` form, networks as `address/prefixlen` with
the host bits zero, MACs as lower-case colon hex. Text is what operators read in plans and
what golden tests compare; packing happens only where a netlink message is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

Value = TypeVar("Value")
NOTHING: frozenset[Any] = frozenset()


class Occupant(NamedTuple):
    """In an actual state only: what stands at a wanted key and is not ours: never displaced."""

    type: type[Any]
    """Of the wanted value."""
    key: Any
    """Of the wanted value."""
    text: str
    """What is there and whose it is, as one line, with the mend."""


class HostState:
    """A set of values: what is wanted, or what is there. Never changed after it was made."""

    __slots__ = ("_groups",)

    def __init__(self, *groups: Iterable[Any], **named: Iterable[Any]) -> None:
        """Hold all values of all groups; a group may be given a name, for its reader.

        A value's own type says what it is, not the name. A frozenset holds values of one type.
        """
        found: dict[type[Any], list[frozenset[Any]]] = {}
        for group in (*groups, *named.values()):
            if isinstance(group, frozenset):
                if group:
                    found.setdefault(type(next(iter(group))), []).append(group)
                continue
            by_type: dict[type[Any], set[Any]] = {}
            for value in group:
                by_type.setdefault(type(value), set()).add(value)
            for kind, values in by_type.items():
                found.setdefault(kind, []).append(frozenset(values))
        self._groups = {
            kind: parts[0] if len(parts) == 1 else NOTHING.union(*parts)
            for kind, parts in found.items()
        }

    def of(self, kind: type[Value]) -> frozenset[Value]:
        """The values of one type."""
        return self._groups.get(kind, NOTHING)

    def replacing(self, kind: type[Value], values: Iterable[Value]) -> HostState:
        """The same state with other values of one type."""
        rest = (group for one, group in self._groups.items() if one is not kind)
        return HostState(*rest, frozenset(values))

    def only(self, kinds: Iterable[type[Any]]) -> HostState:
        """The values of these types."""
        return HostState(*(self.of(kind) for kind in kinds))

    def groups(self) -> Iterable[frozenset[Any]]:
        """All values, those of one type together."""
        return self._groups.values()

    def __or__(self, other: HostState) -> HostState:
        """Both states together."""
        return merge((self, other))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostState) and self._groups == other._groups

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return bool(self._groups)

    def __repr__(self) -> str:
        return f"HostState({', '.join(map(repr, self._groups.values()))})"


def merge(states: Iterable[HostState]) -> HostState:
    """The union of many states, in time linear in their size."""
    return HostState(*(group for state in states for group in state.groups()))
